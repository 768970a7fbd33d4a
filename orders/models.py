"""The order, its lines and its history."""

from typing import Any

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from common.idempotency import StoredAnswer
from common.performed_actions import AbstractPerformedAction
from common.reads import LatestWrite as AbstractLatestWrite
from common.search import PartIndex, beginning_index
from outbox.ids import uuid7
from outbox.models import DeadLetter as AnyDeadLetter
from outbox.models import IncomingMessage, OutgoingMessage
from outbox.store import Rows

from .archive_models import ArchivedHistory as ArchivedHistory
from .webhook_models import WebhookAttempt as WebhookAttempt
from .webhook_models import WebhookDelivery as WebhookDelivery
from .webhook_models import WebhookEndpoint as WebhookEndpoint
from .webhook_models import WebhookSecret as WebhookSecret

ROWS = Rows("orders")


class Outgoing(OutgoingMessage):
    """A message that orders sends."""

    class Meta:
        proxy = True
        verbose_name = _("outgoing message")
        verbose_name_plural = _("outgoing messages")


class Incoming(IncomingMessage):
    """A message that orders has handled."""

    class Meta:
        proxy = True
        verbose_name = _("incoming message")
        verbose_name_plural = _("incoming messages")

    @classmethod
    def open_work(cls, subject: models.F | models.OuterRef) -> models.QuerySet[Any]:
        """The orders with this id that have not ended."""
        return Order.objects.filter(order_id=subject).exclude(status__in=ENDS)


class DeadLetter(AnyDeadLetter):
    """A message that orders could not send or handle."""

    class Meta:
        proxy = True
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")


class Status(models.TextChoices):
    """The status of an order. Which one follows which is in saga.py."""

    PENDING = "pending", _("pending")
    RESERVED = "reserved", _("reserved")
    PAYMENT_PENDING = "payment_pending", _("payment pending")
    AUTHORIZED = "authorized", _("authorized")  # the money is reserved, and taken later
    CAPTURING = "capturing", _("capturing")
    PAID = "paid", _("paid")
    VOIDING = "voiding", _("voiding")
    REFUNDING = "refunding", _("refunding")
    RELEASING = "releasing", _("releasing")
    DONE = "done", _("done")
    CANCELED = "canceled", _("canceled")
    FAILED = "failed", _("failed")


ENDS = frozenset({Status.DONE, Status.CANCELED, Status.FAILED})


NUMBERS = "orders_order_number"  # the sequence of order numbers


def new_order_id() -> str:
    return str(uuid7())


def new_number() -> int:
    """The next order number. Some are never used: those of orders that were not placed in the end."""
    ((number,),) = ROWS.fetch("SELECT nextval(%s)", NUMBERS)
    return int(number)


class Order(models.Model):
    """An order. Only the saga changes one."""

    loaded_lines: list["OrderLine"]  # where the order was read with `LOADED_LINES`
    loaded_events: list["OrderEvent"]  # where it was read with its history

    # Only processes of the release before use them: see migrate_all.
    former_indexes = (
        models.Index(fields=["-created_at", "-order_id"], name="order_newest"),
        models.Index(fields=["principal", "-created_at", "-order_id"], name="order_of_principal"),
        models.Index(fields=["status", "-created_at", "-order_id"], name="order_of_status"),
        *(
            models.Index(fields=[name, "-created_at", "-order_id"], name=index, condition=~models.Q(**{name: ""}))
            for name, index in (
                ("customer_id", "order_of_customer"), ("user_id", "order_of_user"), ("user_email", "order_of_email"),
            )
        ),
    )  # fmt: skip

    class Method(models.TextChoices):
        ACCOUNT = "account", _("account")
        GATEWAY = "gateway", _("gateway")
        INVOICE = "invoice", _("invoice")  # nothing is collected here

    class Capture(models.TextChoices):
        AUTOMATIC = "", _("automatic")
        MANUAL = "manual", _("on request")
        AFTER_PROCESSING = "after_processing", _("after it is processed")

    order_id = models.CharField(_("order id"), primary_key=True, max_length=64, default=new_order_id)
    number = models.BigIntegerField(
        _("number"),
        null=True,  # in the database, until the migration has numbered the orders before it
        db_default=models.Func(models.Value(NUMBERS), function="nextval"),
        editable=False,
    )
    reference = models.CharField(
        _("the client's order id"),
        max_length=64,
        blank=True,
        default="",
        db_default="",
        help_text=_("unique for this client only"),
    )
    principal = models.CharField(_("principal"), max_length=100, blank=True)
    customer_id = models.CharField(_("customer id"), max_length=100, blank=True)
    user_id = models.CharField(_("user id"), max_length=100, blank=True)
    user_email = models.CharField(_("email"), max_length=254, blank=True)
    description = models.CharField(_("description"), max_length=500, blank=True)
    metadata = models.JSONField(
        _("metadata"),
        default=dict,
        blank=True,
        db_default={},
        help_text=_("texts of the client, given back as they are"),
    )
    status = models.CharField(_("status"), max_length=20, choices=Status.choices)
    total = models.BigIntegerField(_("total"), help_text=_("in minor units"))
    currency = models.CharField(_("currency"), max_length=3)
    payment_method = models.CharField(_("payment method"), max_length=10, choices=Method.choices)
    payment_id = models.CharField(_("payment id"), max_length=100, blank=True)
    capture = models.CharField(
        _("money is taken"), max_length=20, choices=Capture.choices, blank=True, default="", db_default=""
    )
    captured = models.BigIntegerField(
        _("captured"), null=True, help_text=_("in minor units, if less than the total is taken")
    )
    refunded = models.BigIntegerField(_("refunded"), default=0, db_default=0, help_text=_("in minor units"))
    hold_id = models.UUIDField(_("hold"), null=True)
    fail_reason = models.CharField(_("fail reason"), max_length=50, blank=True)
    blocked = models.CharField(
        _("blocked by"), max_length=50, blank=True, default="", db_default=""
    )  # a refusal, for a person
    version = models.PositiveIntegerField(_("version"), default=1)
    fingerprint = models.CharField(_("request fingerprint"), max_length=64, blank=True)
    created_at = models.DateTimeField(_("created at"))
    updated_at = models.DateTimeField(_("updated at"))
    status_since = models.DateTimeField(_("in this status since"), default=timezone.now, db_default=Now())
    timer_at = models.DateTimeField(_("next timer at"), null=True)  # of the timer message that counts
    timer_id = models.UUIDField(_("next timer"), null=True)  # its message id
    archived = models.DateField(
        _("archived"), null=True, editable=False, help_text=_("the month that has its history")
    )  # see archive.py

    class Meta:
        verbose_name = _("order")
        verbose_name_plural = _("orders")
        constraints = [
            models.UniqueConstraint(
                fields=["reference", "principal"],
                condition=~models.Q(reference=""),
                name="one_order_per_reference_and_principal",
            ),
            models.UniqueConstraint(fields=["number"], name="one_order_per_number"),
            models.CheckConstraint(condition=models.Q(total__gte=0), name="order_total_not_negative"),
            models.CheckConstraint(condition=models.Q(status__in=Status.values), name="order_has_a_known_status"),
            models.CheckConstraint(
                condition=models.Q(captured=None) | models.Q(captured__gt=0, captured__lte=models.F("total")),
                name="order_captured_within_its_total",
            ),
            models.CheckConstraint(
                condition=models.Q(refunded__gte=0, refunded__lte=models.F("total")),
                name="order_refunded_within_its_total",
            ),
        ]
        indexes = [
            # Note [Ascending, though lists begin with the newest]: an index that grows at its end has full pages, one
            # that grows at its beginning half-full ones. And the number is shorter than the id.
            models.Index(fields=["created_at", "number"], name="order_by_time"),
            models.Index(fields=["principal", "created_at", "number"], name="order_of_client_by_time"),
            models.Index(fields=["updated_at", "number"], name="order_by_change"),
            models.Index(fields=["principal", "updated_at", "number"], name="order_of_client_by_change"),
            models.Index(  # nearly all are done: those are found on the way through the list
                fields=["status", "created_at", "number"],
                name="order_other_than_done",
                condition=~models.Q(status="done"),
            ),
            beginning_index("user_email", name="order_with_email", then=("created_at", "number")),
            beginning_index("user_id", name="order_with_user", then=("created_at", "number")),
            beginning_index("customer_id", name="order_with_customer", then=("created_at", "number")),
            models.Index(
                fields=["status", "status_since"],
                name="order_open_since",
                condition=~models.Q(status__in=sorted(ENDS)),
            ),
            models.Index(
                fields=["updated_at"],
                name="order_to_archive",
                condition=models.Q(archived=None, status__in=sorted(ENDS)),
            ),
        ]

    def __str__(self) -> str:
        return self.order_id

    @property
    def shown_id(self) -> str:
        """The id by which its client knows the order: the one that the client gave it, or else ours."""
        return self.reference or self.order_id

    @property
    def paid(self) -> int:
        """What is taken for it if all goes well, in minor units."""
        return self.total if self.captured is None else self.captured

    def sum_of(self, kind: str) -> int:
        """The sum of its lines of this kind, in minor units and not negative; it must have been read with its lines."""
        return abs(sum(line.amount for line in self.loaded_lines if line.kind == kind))


class OrderLine(models.Model):
    """
    A line of an order: goods, or what is added to their price or taken off it.

    Goods without a product are a free line, which holds no stock. What is no goods belongs to one line of goods
    (`of_position`) or to the order as a whole, and has a quantity of one.
    """

    class Kind(models.TextChoices):
        ITEM = "item", _("item")
        TAX = "tax", _("tax")
        DISCOUNT = "discount", _("discount")
        SHIPPING = "shipping", _("shipping")

    order = models.ForeignKey(Order, models.PROTECT, related_name="lines", verbose_name=_("order"), db_index=False)
    position = models.PositiveSmallIntegerField(_("position"))
    kind = models.CharField(_("kind"), max_length=10, choices=Kind.choices, default=Kind.ITEM, db_default="item")
    of_position = models.SmallIntegerField(_("belongs to position"), null=True)
    product_id = models.UUIDField(_("product"), null=True)
    sku = models.CharField(_("sku"), max_length=64, blank=True)
    name = models.CharField(_("name"), max_length=500, blank=True)
    quantity = models.PositiveIntegerField(_("quantity"))
    unit_price = models.BigIntegerField(
        _("unit price"), help_text=_("in minor units; negative for a discount, and for nothing else")
    )

    class Meta:
        verbose_name = _("order line")
        verbose_name_plural = _("order lines")
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["order", "position"], name="one_line_per_position"),
            models.CheckConstraint(condition=models.Q(quantity__gte=1), name="line_quantity_positive"),
            models.CheckConstraint(
                condition=models.Q(unit_price__gte=0) & ~models.Q(kind="discount")
                | models.Q(unit_price__lt=0, kind="discount"),
                name="line_price_has_the_sign_of_its_kind",
            ),
            models.CheckConstraint(
                condition=models.Q(kind="item", of_position=None)
                | models.Q(kind__in=["tax", "discount", "shipping"], product_id=None, quantity=1),
                name="line_is_goods_or_belongs_to_some",
            ),
        ]
        indexes = [beginning_index("sku", name="line_with_sku", then=("id",))]

    def __str__(self) -> str:
        return f"{self.quantity} x {self.sku or self.name}"

    @property
    def amount(self) -> int:
        """What the line adds to the total of its order, in minor units."""
        return self.unit_price * self.quantity

    @property
    def is_free(self) -> bool:
        """Whether it is goods that are not in the catalog."""
        return self.kind == self.Kind.ITEM and self.product_id is None


LOADED_LINES = models.Prefetch("lines", to_attr="loaded_lines")


class NamesInHistory(models.Func):
    """The names of an order's customer in its first event, in capitals, one a line: see ORDER_PARTS."""

    template = (
        "UPPER(COALESCE(%(expressions)s ->> 'user_email', '') || E'\\n' || COALESCE(%(expressions)s ->> 'user_id', '')"
        " || E'\\n' || COALESCE(%(expressions)s ->> 'customer_id', ''))"
    )
    output_field = models.TextField()


# Note [Names in the history]: an index of trigrams costs at each change of a row, and an order changes about eight
# times, its first event never. So customers are looked for in the events, which have the same names.
ORDER_PARTS = PartIndex("order_by_part", NamesInHistory("data"), condition=models.Q(version=1))


class OrderEvent(models.Model):
    """One transition of an order. An order can be rebuilt from its events; the database refuses to change them."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    order = models.ForeignKey(Order, models.PROTECT, related_name="events", verbose_name=_("order"), db_index=False)
    version = models.PositiveIntegerField(_("version"))
    type = models.CharField(_("type"), max_length=60)
    status = models.CharField(_("status"), max_length=20, choices=Status.choices)
    data = models.JSONField(_("data"), default=dict)
    actor = models.CharField(_("actor"), max_length=150, blank=True)
    message_id = models.CharField(_("message id"), max_length=64, blank=True)
    correlation_id = models.CharField(_("correlation id"), max_length=64)
    at = models.DateTimeField(_("at"))

    part_indexes = (ORDER_PARTS,)

    class Meta:
        verbose_name = _("order event")
        verbose_name_plural = _("order events")
        ordering = ["version"]
        constraints = [models.UniqueConstraint(fields=["order", "version"], name="one_event_per_version")]

    def __str__(self) -> str:
        return f"{self.order_id} v{self.version}: {self.type}"


class Refund(models.Model):
    """Money of an order that goes back while the order stays: asked for here, or made at the gateway."""

    class Status(models.TextChoices):
        PENDING = "pending", _("pending")
        SUCCEEDED = "succeeded", _("succeeded")
        FAILED = "failed", _("failed")

    refund_id = models.UUIDField(_("refund id"), primary_key=True, default=uuid7, editable=False)
    order = models.ForeignKey(Order, models.PROTECT, related_name="refunds", verbose_name=_("order"))
    amount = models.BigIntegerField(_("amount"), help_text=_("in minor units"))
    currency = models.CharField(_("currency"), max_length=3)
    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.PENDING)
    reason = models.CharField(_("reason"), max_length=200, blank=True)
    lines = models.JSONField(_("lines"), default=list, help_text=_("positions and quantities, if it is of lines"))
    restock = models.BooleanField(_("back into stock"), default=False)
    fail_code = models.CharField(_("failed because"), max_length=50, blank=True)
    actor = models.CharField(_("asked for by"), max_length=150, blank=True)
    created_at = models.DateTimeField(_("created at"))
    updated_at = models.DateTimeField(_("updated at"))

    class Meta:
        verbose_name = _("refund")
        verbose_name_plural = _("refunds")
        ordering = ["refund_id"]
        constraints = [
            models.CheckConstraint(condition=models.Q(amount__gt=0), name="order_refund_amount_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.refund_id}: {self.status}"


class IdempotencyKey(StoredAnswer):
    """The answer to a request, committed together with the effect of the request."""

    order_id = models.CharField(_("order id"), max_length=64, blank=True, db_index=True)

    class Meta(StoredAnswer.Meta):
        pass


class LatestWrite(AbstractLatestWrite):
    """When a client has last written to orders."""


class PerformedAction(AbstractPerformedAction):
    """A form of the back office about orders that has been carried out."""
