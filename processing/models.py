"""Stock: the products, what is held of them for which order, and the movements of stock."""

import hashlib
from typing import Any

from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from common.performed_actions import AbstractPerformedAction
from common.reads import LatestWrite as AbstractLatestWrite
from common.search import PartIndex, Texts, Words
from outbox.ids import uuid7
from outbox.models import DeadLetter as AnyDeadLetter
from outbox.models import IncomingMessage, OutgoingMessage
from outbox.store import Rows

ROWS = Rows("processing")


class Outgoing(OutgoingMessage):
    """The outbox of processing."""

    class Meta:
        proxy = True
        verbose_name = _("outgoing message")
        verbose_name_plural = _("outgoing messages")


class Incoming(IncomingMessage):
    """The inbox of processing."""

    class Meta:
        proxy = True
        verbose_name = _("incoming message")
        verbose_name_plural = _("incoming messages")

    @classmethod
    def open_work(cls, subject: models.F | models.OuterRef) -> models.QuerySet[Any]:
        """Return the holds that are open."""
        return Hold.objects.filter(order_id=subject, status=Hold.Status.HELD)


class DeadLetter(AnyDeadLetter):
    """Messages that processing could not send or handle."""

    class Meta:
        proxy = True
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")


PRODUCT_WORDS = Words("sku", "name")
PRODUCT_PARTS = PartIndex("product_by_part", Texts("sku", "name"))


class Product(models.Model):
    """
    A product. Its counters change only together with a movement.

    Its own price is the one in its currency; `other_prices` are what it costs in others. Nothing is converted.
    """

    product_id = models.UUIDField(_("product id"), primary_key=True, default=uuid7, editable=False)
    sku = models.CharField(_("sku"), max_length=64, unique=True)
    name = models.CharField(_("name"), max_length=200)
    price = models.BigIntegerField(_("price"), help_text=_("in minor units"))
    currency = models.CharField(_("currency"), max_length=3)
    available = models.BigIntegerField(_("available"), default=0)
    held = models.BigIntegerField(_("held"), default=0)
    sold = models.BigIntegerField(_("sold"), default=0)
    received = models.BigIntegerField(_("received"), default=0)
    is_active = models.BooleanField(_("active"), default=True)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)

    part_indexes = (PRODUCT_PARTS,)

    class Meta:
        verbose_name = _("product")
        verbose_name_plural = _("products")
        constraints = [
            models.CheckConstraint(condition=Q(price__gte=0), name="product_price_not_negative"),
            models.CheckConstraint(
                condition=Q(available__gte=0, held__gte=0, sold__gte=0), name="product_never_oversold"
            ),
            models.CheckConstraint(
                condition=Q(received=F("available") + F("held") + F("sold")), name="product_stock_conserved"
            ),
        ]
        indexes = [GinIndex(PRODUCT_WORDS, name="product_by_words")]

    def __str__(self) -> str:
        return f"{self.name} ({self.sku})"

    @property
    def catalog_etag(self) -> str:
        """What changes whenever the product is sold in another way, and stays while its stock moves."""
        _own, *others = self.prices.items()
        return _digest(self.name, self.price, self.currency, self.is_active, *others)

    @property
    def prices(self) -> dict[str, int]:
        """What it costs, by currency, in minor units; in its own currency first."""
        others = sorted((one.currency, one.price) for one in self.other_prices.all())
        return {self.currency: self.price} | dict(others)

    @property
    def etag(self) -> str:
        """What changes whenever anything of the product does."""
        return _digest(self.catalog_etag, self.available, self.held, self.sold, self.received, self.updated_at)


class ProductPrice(models.Model):
    """What a product costs in another currency than its own. It changes under the lock of its product."""

    product = models.ForeignKey(
        Product, models.PROTECT, related_name="other_prices", verbose_name=_("product"), db_index=False
    )
    currency = models.CharField(_("currency"), max_length=3)
    price = models.BigIntegerField(_("price"), help_text=_("in minor units"))

    class Meta:
        verbose_name = _("price")
        verbose_name_plural = _("prices")
        constraints = [
            models.UniqueConstraint(fields=["product", "currency"], name="one_price_per_product_and_currency"),
            models.CheckConstraint(condition=Q(price__gte=0), name="price_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.price} {self.currency}"


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:20]


class Hold(models.Model):
    """Stock that is reserved for one order until it is sold or released."""

    class Status(models.TextChoices):
        HELD = "held", _("held")
        SOLD = "sold", _("sold")
        RELEASED = "released", _("released")

    hold_id = models.UUIDField(_("hold id"), primary_key=True, default=uuid7, editable=False)
    order_id = models.CharField(_("order id"), max_length=64, db_index=True)
    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.HELD)
    created_at = models.DateTimeField(_("created at"))
    expires_at = models.DateTimeField(_("expires at"))
    ended_at = models.DateTimeField(_("ended at"), null=True)
    asked_at = models.DateTimeField(_("asked at"), null=True, editable=False)  # what becomes of it, as it has expired

    quantities: dict[str, int]  # by product; only set by queries that select them

    class Meta:
        verbose_name = _("hold")
        verbose_name_plural = _("holds")
        constraints = [
            models.UniqueConstraint(fields=["order_id"], condition=Q(status="held"), name="one_open_hold_per_order"),
            models.CheckConstraint(
                condition=Q(status="held", ended_at=None) | (~Q(status="held") & Q(ended_at__isnull=False)),
                name="hold_is_open_or_ended",
            ),
        ]
        indexes = [
            models.Index(fields=["expires_at"], condition=Q(status="held"), name="hold_open_by_expiry"),
            models.Index(fields=["hold_id"], condition=Q(status="released"), name="hold_released"),
        ]

    def __str__(self) -> str:
        return f"{self.order_id}: {self.get_status_display()}"


class HoldLine(models.Model):
    """How much of one product a hold reserves. The database refuses to change or delete a line."""

    hold = models.ForeignKey(Hold, models.PROTECT, related_name="lines", verbose_name=_("hold"), db_index=False)
    product = models.ForeignKey(Product, models.PROTECT, related_name="hold_lines", verbose_name=_("product"))
    quantity = models.PositiveBigIntegerField(_("quantity"))

    class Meta:
        verbose_name = _("hold line")
        verbose_name_plural = _("hold lines")
        constraints = [
            models.UniqueConstraint(fields=["hold", "product"], name="one_line_per_product_and_hold"),
            models.CheckConstraint(condition=Q(quantity__gte=1), name="hold_quantity_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} x {self.product_id}"


class StockMovement(models.Model):
    """A change of the counters of a product. The database refuses to change or delete a movement."""

    class Kind(models.TextChoices):
        RECEIVED = "received", _("received")
        CORRECTED = "corrected", _("corrected")
        HELD = "held", _("held")
        RELEASED = "released", _("released")
        SOLD = "sold", _("sold")
        RETURNED = "returned", _("returned")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    product = models.ForeignKey(
        Product, models.PROTECT, related_name="movements", verbose_name=_("product"), db_index=False
    )
    kind = models.CharField(_("kind"), max_length=10, choices=Kind.choices)
    quantity = models.BigIntegerField(_("quantity"), help_text=_("negative only in a correction"))
    hold = models.ForeignKey(Hold, models.PROTECT, null=True, related_name="movements", verbose_name=_("hold"))
    reason = models.CharField(_("reason"), max_length=200, blank=True)
    actor = models.CharField(_("actor"), max_length=150, blank=True)
    at = models.DateTimeField(_("at"))

    class Meta:
        verbose_name = _("stock movement")
        verbose_name_plural = _("stock movements")
        constraints = [
            models.CheckConstraint(
                condition=Q(quantity__gt=0) | Q(kind="corrected", quantity__lt=0),
                name="movement_moves_something",
            ),
        ]
        indexes = [
            models.Index(fields=["product", "id"], name="movement_of_product"),
            models.Index(
                fields=["kind", "id"], condition=~Q(kind__in=["held", "sold"]), name="movement_other_than_trade"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.quantity}"


class Processing(models.Model):
    """The verdict of the processor about an order. The database refuses to change or delete it."""

    class Verdict(models.TextChoices):
        ACCEPTED = "accepted", _("accepted")
        REFUSED = "refused", _("refused")
        WITHDRAWN = "withdrawn", _("withdrawn")

    order_id = models.CharField(_("order id"), primary_key=True, max_length=64)
    verdict = models.CharField(_("verdict"), max_length=10, choices=Verdict.choices)
    reason = models.CharField(_("reason"), max_length=50, blank=True)
    at = models.DateTimeField(_("at"))

    class Meta:
        verbose_name = _("processing")
        verbose_name_plural = _("processings")
        indexes = [
            models.Index(
                fields=["verdict", "order_id"], condition=~Q(verdict="accepted"), name="processing_not_accepted"
            )
        ]

    def __str__(self) -> str:
        return f"{self.order_id}: {self.get_verdict_display()}"


class LatestWrite(AbstractLatestWrite):
    """When a client has last written to stock."""


class PerformedAction(AbstractPerformedAction):
    """A form of the back office about stock that has been carried out."""
