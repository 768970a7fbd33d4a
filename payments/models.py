"""Money: accounts, the ledger, payments, and the webhooks of gateways."""

from datetime import datetime, timedelta
from typing import Any

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from common import idempotency, money
from common.locks import take_turn
from common.performed_actions import AbstractPerformedAction
from common.reads import LatestWrite as AbstractLatestWrite
from common.search import PartIndex, Texts
from outbox.ids import uuid7
from outbox.models import DeadLetter as AnyDeadLetter
from outbox.models import IncomingMessage, OutgoingMessage
from outbox.store import Rows

from .books.models import Difference as Difference
from .books.models import GatewayTransaction as GatewayTransaction
from .books.models import Reconciliation as Reconciliation

ROWS = Rows("payments")


class Outgoing(OutgoingMessage):
    """The outbox of payments."""

    class Meta:
        proxy = True
        verbose_name = _("outgoing message")
        verbose_name_plural = _("outgoing messages")


class Incoming(IncomingMessage):
    """The inbox of payments."""

    class Meta:
        proxy = True
        verbose_name = _("incoming message")
        verbose_name_plural = _("incoming messages")

    @classmethod
    def open_work(cls, subject: models.F | models.OuterRef) -> models.QuerySet[Any]:
        """Return the payments about which the gateway is still being asked, or a person has to decide."""
        return Payment.objects.filter(order_id=subject, status__in=(*Payment.ASKED, *Payment.REFUSED))


class DeadLetter(AnyDeadLetter):
    """Messages that payments could not send or handle."""

    class Meta:
        proxy = True
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")


class IdempotencyKey(idempotency.StoredAnswer):
    """The answer to a request that moves money, kept under its Idempotency-Key."""


class LatestWrite(AbstractLatestWrite):
    """When a client has last written to payments."""


class PerformedAction(AbstractPerformedAction):
    """A form of the back office about money that has been carried out."""


ACCOUNT_PARTS = PartIndex("account_by_part", Texts("user_id"))


class Account(models.Model):
    """
    A customer's account, or one of the system's own.

    A customer's balance is stored here and never falls below zero. The balance of a system account is the sum of its
    entries, which is computed when needed, so that payments do not wait for each other at one row.
    """

    class Kind(models.TextChoices):
        CUSTOMER = "customer", _("customer")
        SYSTEM = "system", _("system")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(_("kind"), max_length=10, choices=Kind.choices, default=Kind.CUSTOMER)
    user_id = models.CharField(_("user id"), max_length=100)
    principal = models.CharField(_("principal"), max_length=100, blank=True)
    currency = models.CharField(_("currency"), max_length=3)
    balance = models.BigIntegerField(_("balance"), default=0, help_text=_("in minor units"))
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)

    part_indexes = (ACCOUNT_PARTS,)

    class Meta:
        verbose_name = _("account")
        verbose_name_plural = _("accounts")
        constraints = [
            models.UniqueConstraint(
                fields=["user_id", "principal", "currency"],
                condition=Q(kind="customer"),
                name="one_account_per_user_principal_and_currency",
            ),
            models.UniqueConstraint(
                fields=["user_id", "currency"],
                condition=Q(kind="system"),
                name="one_system_account_per_currency",
            ),
            models.CheckConstraint(condition=Q(balance__gte=0), name="account_never_overdrawn"),
            models.CheckConstraint(condition=Q(kind="customer") | Q(balance=0), name="system_balance_is_its_entries"),
        ]

    def __str__(self) -> str:
        return self.user_id


class Entry(models.Model):
    """
    An amount that moved from one account to another. Both sides are in one row, so that they always sum to zero.

    The database refuses to change or delete an entry.
    """

    class Kind(models.TextChoices):
        DEPOSIT = "deposit", _("deposit")
        CHARGE = "charge", _("charge")
        REFUND = "refund", _("refund")
        CORRECTION = "correction", _("correction")
        REFUND_FAILED = "refund_failed", _("refund failed")  # a refund that was booked has not reached the payer
        DISPUTE = "dispute", _("dispute")  # the gateway has taken money that is disputed
        DISPUTE_WON = "dispute_won", _("dispute won")
        DISPUTE_LOST = "dispute_lost", _("dispute lost")
        FEE = "fee", _("fee")  # what the gateway keeps

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(_("kind"), max_length=20, choices=Kind.choices)
    source = models.ForeignKey(Account, models.PROTECT, related_name="paid_out", verbose_name=_("from"), db_index=False)
    target = models.ForeignKey(Account, models.PROTECT, related_name="paid_in", verbose_name=_("to"), db_index=False)
    amount = models.BigIntegerField(_("amount"), help_text=_("in minor units"))
    currency = models.CharField(_("currency"), max_length=3)
    order_id = models.CharField(_("order id"), max_length=64, blank=True, db_index=True)
    reason = models.CharField(_("reason"), max_length=200, blank=True)
    actor = models.CharField(_("actor"), max_length=150, blank=True)
    request_id = models.CharField(_("request id"), max_length=64, blank=True)
    refund_id = models.UUIDField(_("refund"), null=True)  # of a part of a payment; none where all of it went back
    gateway_id = models.CharField(
        _("id at the gateway"), max_length=100, blank=True, default="", db_default=""
    )  # of the refund, dispute or transaction that it records
    at = models.DateTimeField(_("at"))

    class Meta:
        verbose_name = _("entry")
        verbose_name_plural = _("entries")
        indexes = [
            models.Index(fields=["source", "id"], name="entry_paid_out"),
            models.Index(fields=["target", "id"], name="entry_paid_in"),
            models.Index(fields=["kind", "id"], name="entry_other_than_charge", condition=~Q(kind="charge")),
            BrinIndex(fields=["at"], name="entry_by_time"),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="entry_amount_positive"),
            models.CheckConstraint(condition=~Q(source=F("target")), name="entry_has_two_sides"),
            models.UniqueConstraint(fields=["order_id"], condition=Q(kind="charge"), name="one_capture_per_order"),
            models.UniqueConstraint(
                fields=["gateway_id", "kind"], condition=~Q(gateway_id=""), name="one_entry_per_gateway_id_and_kind"
            ),
            models.UniqueConstraint(fields=["request_id"], condition=~Q(request_id=""), name="one_entry_per_request"),
            models.CheckConstraint(
                condition=Q(kind__in=["deposit", "correction", "fee"]) | ~Q(order_id=""),
                name="money_of_an_order_names_it",
            ),
            models.CheckConstraint(
                condition=~Q(kind="correction") | ~Q(reason="") & ~Q(actor=""),
                name="correction_says_who_and_why",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {money.text(self.amount, currency=self.currency)}"


def reference(order_id: str, *, installation: str) -> str:
    """Return the name of an order at a gateway, which systems may share: no order id has a colon."""
    return f"{installation}:{order_id}" if installation else order_id


class Payment(models.Model):
    """
    The payment of an order: one row for each order, in whatever order messages are delivered.

    A void or a refund that arrives before its charge leaves a voided row, so that the charge takes nothing. A payment
    changes by the table in lifecycle.py only.
    """

    class Status(models.TextChoices):
        REQUESTED = "requested", _("requested")  # the gateway is being asked for it
        PENDING = "pending", _("pending")  # the gateway has accepted it; the money is not in yet
        AUTHORIZED = "authorized", _("authorized")  # the gateway has reserved the money
        CAPTURING = "capturing", _("capturing")  # the gateway is being asked to take what it has reserved
        SUCCEEDED = "succeeded", _("succeeded")
        FAILED = "failed", _("failed")
        VOIDING = "voiding", _("voiding")  # the gateway is being asked to cancel
        VOIDED = "voided", _("voided")
        REFUNDING = "refunding", _("refunding")  # the gateway is being asked to refund
        REFUNDED = "refunded", _("refunded")
        VOID_REFUSED = "void_refused", _("void refused")  # the gateway refuses to cancel: a person decides
        REFUND_REFUSED = "refund_refused", _("refund refused")  # the gateway refuses to refund: a person decides

    ASKED = (
        Status.REQUESTED, Status.PENDING, Status.AUTHORIZED, Status.CAPTURING, Status.VOIDING, Status.REFUNDING,
    )  # the gateway has a call to answer  # fmt: skip
    REFUSED = (Status.VOID_REFUSED, Status.REFUND_REFUSED)  # the gateway does not return the money
    PAYABLE = (Status.REQUESTED, Status.PENDING)  # the payer can still pay
    NAMELESS = (Status.REQUESTED, Status.VOIDING)  # the gateway has yet to tell its id, if it has the payment

    order_id = models.CharField(_("order id"), primary_key=True, max_length=64)
    method = models.CharField(_("method"), max_length=10, blank=True)
    gateway = models.CharField(_("gateway"), max_length=20, blank=True)
    gateway_payment_id = models.CharField(_("payment id at the gateway"), max_length=100, blank=True)
    user_id = models.CharField(_("user id"), max_length=100, blank=True)
    amount = models.BigIntegerField(_("amount"), default=0, help_text=_("in minor units"))
    currency = models.CharField(_("currency"), max_length=3, blank=True)
    installation = models.CharField(_("installation"), max_length=20, blank=True, default="", db_default="")
    status = models.CharField(_("status"), max_length=20, choices=Status.choices)
    fail_reason = models.CharField(_("fail reason"), max_length=50, blank=True)
    refusal = models.CharField(
        _("refused because"), max_length=50, blank=True, default="", db_default=""
    )  # to return the money
    refusals = models.PositiveSmallIntegerField(_("refusals"), default=0, db_default=0)
    settled_by = models.CharField(_("settled by"), max_length=150, blank=True, default="", db_default="")
    settled_why = models.CharField(_("how it was settled"), max_length=500, blank=True, default="", db_default="")
    deadline = models.DateTimeField(_("not to be taken after"), null=True)
    tried_at = models.DateTimeField(_("last tried to open at"), null=True)
    unanswered = models.PositiveSmallIntegerField(_("unanswered in a row"), default=0)
    broken = models.PositiveSmallIntegerField(_("calls that broke at the gateway"), default=0, db_default=0)
    gateway_refund_id = models.CharField(
        _("refund id at the gateway"), max_length=100, blank=True, default="", db_default=""
    )  # of the refund of all that was left
    is_manual = models.BooleanField(_("captured on request"), default=False, db_default=False)
    to_capture = models.BigIntegerField(_("to capture"), null=True, help_text=_("in minor units"))
    authorized_until = models.DateTimeField(_("authorized until"), null=True)
    client_secret = models.CharField(max_length=255, blank=True, default="", db_default="", editable=False)
    next_action = models.JSONField(_("what the payer has to do"), null=True, editable=False)
    ask_at = models.DateTimeField(_("ask the gateway at"), null=True)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)

    class Meta:
        verbose_name = _("payment")
        verbose_name_plural = _("payments")
        constraints = [
            models.UniqueConstraint(
                fields=["gateway_payment_id", "gateway"],
                condition=~Q(gateway_payment_id=""),
                name="one_payment_per_gateway_id",
            ),
        ]
        indexes = [
            models.Index(fields=["created_at", "order_id"], name="payment_by_time"),
            models.Index(fields=["ask_at"], condition=Q(ask_at__isnull=False), name="payment_to_ask_about"),
            models.Index(
                fields=["status", "order_id"], condition=~Q(status="succeeded"), name="payment_other_than_succeeded"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.order_id}: {self.get_status_display()}"

    @property
    def reference(self) -> str:
        """The order as the gateway knows it."""
        return reference(self.order_id, installation=self.installation)

    @classmethod
    def lock(cls, order_id: str) -> "Payment | None":
        """Return the payment of an order, locked. Callers wait for each other even where there is no payment yet."""
        take_turn("payments", order_id)
        return cls.objects.select_for_update().filter(pk=order_id).first()


class Attempt(models.Model):
    """An attempt to pay at the gateway that was declined."""

    payment = models.ForeignKey(
        Payment, models.PROTECT, related_name="attempts", verbose_name=_("payment"), db_index=False
    )
    attempt_id = models.CharField(_("id at the gateway"), max_length=100)
    code = models.CharField(_("code"), max_length=50)
    message = models.CharField(_("message"), max_length=500, blank=True)
    at = models.DateTimeField(_("at"))

    class Meta:
        verbose_name = _("declined attempt")
        verbose_name_plural = _("declined attempts")
        constraints = [
            models.UniqueConstraint(fields=["payment", "attempt_id"], name="one_row_per_declined_attempt"),
        ]

    def __str__(self) -> str:
        return f"{self.payment_id}: {self.code}"


class Refund(models.Model):
    """
    A part of the money of a payment that goes back: asked for here, or made by hand at the gateway.

    All that is left of a payment goes back without one: see `Payment.Status.REFUNDING`. A refund changes by the table
    in refund_lifecycle.py only.
    """

    class Status(models.TextChoices):
        REQUESTED = "requested", _("requested")  # the gateway is being asked
        PENDING = "pending", _("pending")  # the gateway has accepted it; the money is on its way
        SUCCEEDED = "succeeded", _("succeeded")
        FAILED = "failed", _("failed")

    OPEN = (Status.REQUESTED, Status.PENDING)

    refund_id = models.UUIDField(_("refund id"), primary_key=True, default=uuid7, editable=False)
    payment = models.ForeignKey(Payment, models.PROTECT, related_name="refunds", verbose_name=_("payment"))
    amount = models.BigIntegerField(_("amount"), help_text=_("in minor units"))
    currency = models.CharField(_("currency"), max_length=3)
    status = models.CharField(_("status"), max_length=10, choices=Status.choices)
    reason = models.CharField(_("reason"), max_length=200, blank=True)
    fail_reason = models.CharField(_("fail reason"), max_length=50, blank=True)
    gateway = models.CharField(_("gateway"), max_length=20, blank=True)
    gateway_refund_id = models.CharField(_("refund id at the gateway"), max_length=100, blank=True)
    is_foreign = models.BooleanField(_("made at the gateway"), default=False)
    unanswered = models.PositiveSmallIntegerField(_("unanswered in a row"), default=0)
    broken = models.PositiveSmallIntegerField(_("calls that broke at the gateway"), default=0)
    ask_at = models.DateTimeField(_("ask the gateway at"), null=True)
    created_at = models.DateTimeField(_("created at"))
    updated_at = models.DateTimeField(_("updated at"))

    class Meta:
        verbose_name = _("refund")
        verbose_name_plural = _("refunds")
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="refund_amount_positive"),
            models.UniqueConstraint(
                fields=["gateway_refund_id", "gateway"],
                condition=~Q(gateway_refund_id=""),
                name="one_refund_per_gateway_id",
            ),
        ]
        indexes = [
            models.Index(fields=["ask_at"], condition=Q(ask_at__isnull=False), name="refund_to_ask_about"),
            models.Index(fields=["status", "refund_id"], condition=~Q(status="succeeded"), name="refund_not_succeeded"),
        ]

    def __str__(self) -> str:
        return f"{self.refund_id}: {self.get_status_display()}"


class Dispute(models.Model):
    """A payer's bank that wants the money of a payment back. It changes by what the gateway says only."""

    class Status(models.TextChoices):
        OPENED = "opened", _("opened")
        WON = "won", _("won")
        LOST = "lost", _("lost")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    payment = models.ForeignKey(Payment, models.PROTECT, related_name="disputes", verbose_name=_("payment"))
    gateway = models.CharField(_("gateway"), max_length=20)
    dispute_id = models.CharField(_("dispute id"), max_length=100)
    amount = models.BigIntegerField(_("amount"), help_text=_("in minor units"))
    currency = models.CharField(_("currency"), max_length=3)
    status = models.CharField(_("status"), max_length=10, choices=Status.choices)
    reason = models.CharField(_("reason"), max_length=100, blank=True)
    respond_by = models.DateTimeField(_("respond by"), null=True)
    created_at = models.DateTimeField(_("created at"))
    updated_at = models.DateTimeField(_("updated at"))

    class Meta:
        verbose_name = _("dispute")
        verbose_name_plural = _("disputes")
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="dispute_amount_positive"),
            models.UniqueConstraint(fields=["dispute_id", "gateway"], name="one_dispute_per_gateway_id"),
        ]
        indexes = [
            models.Index(fields=["respond_by"], condition=Q(status="opened"), name="dispute_open"),
        ]

    def __str__(self) -> str:
        return f"{self.dispute_id}: {self.get_status_display()}"


class WebhookReceipt(models.Model):
    """A webhook of a gateway, stored as it came before it is handled, and handled once."""

    class Status(models.TextChoices):
        RECEIVED = "received", _("received")
        APPLIED = "applied", _("applied")
        UNMATCHED = "unmatched", _("kept for its payment")
        QUARANTINED = "quarantined", _("quarantined")
        REFUNDED = "refunded", _("refunded")
        DISCARDED = "discarded", _("discarded")

    class About(models.TextChoices):
        PAYMENT = "payment", _("payment")
        REFUND = "refund", _("refund")
        DISPUTE = "dispute", _("dispute")

    UNSETTLED = (Status.RECEIVED, Status.UNMATCHED, Status.QUARANTINED)  # handled later, or kept for a decision
    # What says that money came in, or goes back, or that the payer's bank has it.
    MOVED = (
        Q(about=About.PAYMENT, says__in=("succeeded", "refunded"))
        | Q(about=About.REFUND, says__in=("pending", "succeeded"))
        | Q(about=About.DISPUTE, says__in=("opened", "lost"))
    )
    EARLY = timedelta(hours=1)  # within which one that was sent before it may come after it

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    gateway = models.CharField(_("gateway"), max_length=20)
    webhook_id = models.CharField(_("webhook id"), max_length=255)
    status = models.CharField(_("status"), max_length=12, choices=Status.choices, default=Status.RECEIVED)
    reason = models.CharField(_("reason"), max_length=50, blank=True)
    headers = models.JSONField(_("headers"), default=dict)
    body = models.BinaryField(_("body"))
    about = models.CharField(
        _("about"), max_length=10, choices=About.choices, default=About.PAYMENT, db_default=About.PAYMENT
    )
    says = models.CharField(_("says"), max_length=12, blank=True)  # the status in gateways.base of what it is about
    amount = models.BigIntegerField(_("amount"), default=0, help_text=_("in minor units"))
    currency = models.CharField(_("currency"), max_length=3, blank=True)
    payment_id = models.CharField(_("payment id"), max_length=100, blank=True, db_index=True)
    order_id = models.CharField(_("order id"), max_length=64, blank=True, db_index=True)
    installation = models.CharField(_("installation"), max_length=20, blank=True, default="", db_default="")
    decided_by = models.CharField(_("decided by"), max_length=150, blank=True)
    failures = models.SmallIntegerField(_("attempts to return its money that failed"), default=0, db_default=0)
    unanswered = models.SmallIntegerField(_("unanswered in a row"), default=0, db_default=0)
    received_at = models.DateTimeField(_("received at"))
    handled_at = models.DateTimeField(_("handled at"), null=True)

    class Meta:
        verbose_name = _("webhook received")
        verbose_name_plural = _("webhooks received")
        constraints = [models.UniqueConstraint(fields=["webhook_id", "gateway"], name="one_receipt_per_webhook")]
        indexes = [
            models.Index(
                fields=["received_at"],
                condition=Q(status__in=["received", "unmatched", "quarantined"]),
                name="receipt_open",
            ),
            models.Index(fields=["status", "id"], condition=~Q(status="applied"), name="receipt_other_than_applied"),
        ]

    def __str__(self) -> str:
        return f"{self.gateway} {self.webhook_id}"

    @classmethod
    def of_moved_money(cls, payment: Payment) -> models.QuerySet["WebhookReceipt"]:
        """Return the webhooks that are not settled and say that money of this payment has moved."""
        name = "payment_id" if payment.gateway_payment_id else "order_id"
        known = payment.gateway_payment_id or payment.order_id
        return cls.objects.filter(cls.MOVED, gateway=payment.gateway, status__in=cls.UNSETTLED, **{name: known})

    @property
    def reference(self) -> str:
        """The order as the gateway names it."""
        return reference(self.order_id, installation=self.installation)

    def early_or_wrong(self, *, now: datetime) -> Status:
        """Return the status of a webhook that does not fit, but may once others have come that were sent before it."""
        return self.Status.UNMATCHED if now - self.received_at < self.EARLY else self.Status.QUARANTINED

    @property
    def is_being_returned(self) -> bool:
        """Whether it was decided that its money goes back, which has not happened yet."""
        is_kept = self.status in (self.Status.UNMATCHED, self.Status.QUARANTINED)
        return is_kept and self.about == self.About.PAYMENT and self.decided_by != ""

    @property
    def says_that_money_came_in(self) -> bool:
        return self.about == self.About.PAYMENT and self.says == "succeeded"
