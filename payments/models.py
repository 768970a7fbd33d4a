"""Money: accounts, the ledger, payments, and the webhooks of gateways."""

from typing import Any

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from common import idempotency
from common.locks import take_turn
from common.performed_actions import AbstractPerformedAction
from outbox.ids import uuid7
from outbox.models import DeadLetter as AnyDeadLetter
from outbox.models import IncomingMessage, OutgoingMessage
from outbox.store import Rows

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


class PerformedAction(AbstractPerformedAction):
    """A form of the back office about money that has been carried out."""


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

    class Meta:
        verbose_name = _("account")
        verbose_name_plural = _("accounts")
        constraints = [
            models.UniqueConstraint(
                fields=["user_id", "principal"],
                condition=Q(kind="customer"),
                name="one_account_per_user_and_principal",
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

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(_("kind"), max_length=10, choices=Kind.choices)
    source = models.ForeignKey(Account, models.PROTECT, related_name="paid_out", verbose_name=_("from"), db_index=False)
    target = models.ForeignKey(Account, models.PROTECT, related_name="paid_in", verbose_name=_("to"), db_index=False)
    amount = models.BigIntegerField(_("amount"), help_text=_("in minor units"))
    currency = models.CharField(_("currency"), max_length=3)
    order_id = models.CharField(_("order id"), max_length=64, blank=True, db_index=True)
    reason = models.CharField(_("reason"), max_length=200, blank=True)
    actor = models.CharField(_("actor"), max_length=150, blank=True)
    request_id = models.CharField(_("request id"), max_length=64, blank=True)
    at = models.DateTimeField(_("at"))

    class Meta:
        verbose_name = _("entry")
        verbose_name_plural = _("entries")
        indexes = [
            models.Index(fields=["source", "id"], name="entry_paid_out"),
            models.Index(fields=["target", "id"], name="entry_paid_in"),
            models.Index(fields=["kind", "id"], name="entry_other_than_charge", condition=~Q(kind="charge")),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="entry_amount_positive"),
            models.CheckConstraint(condition=~Q(source=F("target")), name="entry_has_two_sides"),
            models.UniqueConstraint(fields=["order_id"], condition=Q(kind="charge"), name="one_capture_per_order"),
            models.UniqueConstraint(fields=["order_id"], condition=Q(kind="refund"), name="one_refund_per_order"),
            models.UniqueConstraint(fields=["request_id"], condition=~Q(request_id=""), name="one_entry_per_request"),
            models.CheckConstraint(
                condition=~Q(kind__in=["charge", "refund"]) | ~Q(order_id=""),
                name="order_money_names_its_order",
            ),
            models.CheckConstraint(
                condition=~Q(kind="correction") | ~Q(reason="") & ~Q(actor=""),
                name="correction_says_who_and_why",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.amount} {self.currency}"


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
        SUCCEEDED = "succeeded", _("succeeded")
        FAILED = "failed", _("failed")
        VOIDING = "voiding", _("voiding")  # the gateway is being asked to cancel
        VOIDED = "voided", _("voided")
        REFUNDING = "refunding", _("refunding")  # the gateway is being asked to refund
        REFUNDED = "refunded", _("refunded")
        VOID_REFUSED = "void_refused", _("void refused")  # the gateway refuses to cancel: a person decides
        REFUND_REFUSED = "refund_refused", _("refund refused")  # the gateway refuses to refund: a person decides

    ASKED = (Status.REQUESTED, Status.PENDING, Status.VOIDING, Status.REFUNDING)  # the gateway has a call to answer
    REFUSED = (Status.VOID_REFUSED, Status.REFUND_REFUSED)  # the gateway does not return the money
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
            models.Index(fields=["ask_at"], condition=Q(ask_at__isnull=False), name="payment_to_ask_about"),
            models.Index(
                fields=["status", "order_id"], condition=~Q(status="succeeded"), name="payment_other_than_succeeded"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.order_id}: {self.status}"

    @property
    def reference(self) -> str:
        """The order as the gateway knows it."""
        return reference(self.order_id, installation=self.installation)

    def put(self) -> "Payment":
        """Store this payment unless its order has one, and return the stored one, locked."""
        if ROWS.run(ROWS.insert(self, or_nothing=True)) == [1]:
            return self
        return Payment.objects.select_for_update().get(pk=self.order_id)

    @classmethod
    def lock(cls, order_id: str) -> "Payment | None":
        """Return the payment of an order, locked. Callers wait for each other even where there is no payment yet."""
        take_turn("payments", order_id)
        return cls.objects.select_for_update().filter(pk=order_id).first()


class WebhookReceipt(models.Model):
    """A webhook of a gateway, stored as it came before it is handled, and handled once."""

    class Status(models.TextChoices):
        RECEIVED = "received", _("received")
        APPLIED = "applied", _("applied")
        UNMATCHED = "unmatched", _("kept for its payment")
        QUARANTINED = "quarantined", _("quarantined")
        REFUNDED = "refunded", _("refunded")
        DISCARDED = "discarded", _("discarded")

    UNSETTLED = (Status.RECEIVED, Status.UNMATCHED, Status.QUARANTINED)  # handled later, or kept for a decision

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    gateway = models.CharField(_("gateway"), max_length=20)
    webhook_id = models.CharField(_("webhook id"), max_length=255)
    status = models.CharField(_("status"), max_length=12, choices=Status.choices, default=Status.RECEIVED)
    reason = models.CharField(_("reason"), max_length=50, blank=True)
    headers = models.JSONField(_("headers"), default=dict)
    body = models.BinaryField(_("body"))
    says = models.CharField(_("says"), max_length=12, blank=True)  # one of gateways.base.Status
    amount = models.BigIntegerField(_("amount"), default=0, help_text=_("in minor units"))
    currency = models.CharField(_("currency"), max_length=3, blank=True)
    payment_id = models.CharField(_("payment id"), max_length=100, blank=True, db_index=True)
    order_id = models.CharField(_("order id"), max_length=64, blank=True, db_index=True)
    installation = models.CharField(_("installation"), max_length=20, blank=True, default="", db_default="")
    decided_by = models.CharField(_("decided by"), max_length=150, blank=True)
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

    @property
    def reference(self) -> str:
        """The order as the gateway names it."""
        return reference(self.order_id, installation=self.installation)
