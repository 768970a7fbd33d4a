"""What gateways have booked, the runs that compare it with the ledger, and the differences that they have found."""

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from outbox.ids import uuid7


class GatewayTransaction(models.Model):
    """
    A movement on the balance of a gateway, as the gateway tells it, stored once for each of its ids.

    `id` is made from the gateway, its id and its time. The entry of its fee has the same.
    """

    class Kind(models.TextChoices):
        CHARGE = "charge", _("charge")
        REFUND = "refund", _("refund")
        REFUND_FAILED = "refund_failed", _("refund failed")
        DISPUTE = "dispute", _("dispute")
        DISPUTE_WON = "dispute_won", _("dispute won")
        OTHER = "other", _("other")  # payouts and the like, which no order has caused

    id = models.UUIDField(primary_key=True, editable=False)
    gateway = models.CharField(_("gateway"), max_length=20)
    transaction_id = models.CharField(_("transaction id"), max_length=100)
    kind = models.CharField(_("kind"), max_length=20, choices=Kind.choices)
    amount = models.BigIntegerField(_("amount"), help_text=_("in minor units"))
    fee = models.BigIntegerField(_("fee"), help_text=_("in minor units"))
    currency = models.CharField(_("currency"), max_length=3)
    fee_currency = models.CharField(_("currency of the fee"), max_length=3)
    at = models.DateTimeField(_("at"))
    payment_id = models.CharField(_("payment id"), max_length=100, blank=True)
    source_id = models.CharField(_("id at the gateway"), max_length=100, blank=True)
    reference = models.CharField(_("order at the gateway"), max_length=100, blank=True)
    order_id = models.CharField(_("order id"), max_length=64, blank=True)  # of our payment; "" while none is known
    description = models.CharField(_("description"), max_length=200, blank=True)

    class Meta:
        verbose_name = _("transaction of a gateway")
        verbose_name_plural = _("transactions of gateways")
        constraints = [
            models.UniqueConstraint(fields=["transaction_id", "gateway"], name="one_row_per_transaction"),
        ]
        indexes = [
            models.Index(fields=["gateway", "at"], name="transaction_by_time"),
            models.Index(fields=["order_id"], condition=~Q(order_id=""), name="transaction_of_order"),
            models.Index(fields=["payment_id"], condition=~Q(payment_id=""), name="transaction_of_payment"),
        ]

    def __str__(self) -> str:
        return f"{self.gateway} {self.transaction_id}"


class Reconciliation(models.Model):
    """A comparison of the ledger with what a gateway has booked from `since` until before `until`."""

    class Status(models.TextChoices):
        RUNNING = "running", _("running")
        SUCCEEDED = "succeeded", _("succeeded")
        FAILED = "failed", _("failed")  # not all was compared

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    gateway = models.CharField(_("gateway"), max_length=20)
    source = models.CharField(_("source"), max_length=100, blank=True)  # the name of a file; "" for the gateway itself
    since = models.DateTimeField(_("from"))
    until = models.DateTimeField(_("until"))
    status = models.CharField(_("status"), max_length=10, choices=Status.choices)
    error = models.CharField(_("error"), max_length=500, blank=True)
    transactions = models.BigIntegerField(_("transactions"), default=0)
    found = models.JSONField(_("found"), default=list)  # by outcome and currency: count and sum
    started_at = models.DateTimeField(_("started at"))
    finished_at = models.DateTimeField(_("finished at"), null=True)

    class Meta:
        verbose_name = _("reconciliation")
        verbose_name_plural = _("reconciliations")
        indexes = [
            models.Index(fields=["gateway", "finished_at"], condition=Q(status="succeeded"), name="reconciled_last"),
        ]

    def __str__(self) -> str:
        return f"{self.gateway} {self.since:%Y-%m-%d} – {self.until:%Y-%m-%d}"


class Difference(models.Model):
    """
    A transaction that the ledger does not have, an entry that the gateway does not have, or two that differ.

    `id` is that of the transaction or, without one, of the entry: there is one row for each. A run closes a difference
    when both agree, and opens it again if they differ in another way.
    """

    class Kind(models.TextChoices):
        MISSING_HERE = "missing_here", _("missing here")  # a payment of ours lacks what the gateway has booked
        UNKNOWN_PAYMENT = "unknown", _("unknown payment")  # the gateway has booked it for no payment of ours
        MISSING_THERE = "missing_there", _("missing there")  # the gateway has not booked what the ledger has
        DIFFERING = "differing", _("differing")  # in amount or currency

    class Status(models.TextChoices):
        OPEN = "open", _("open")
        REPAIRED = "repaired", _("repaired")  # they agree by now
        ACCEPTED = "accepted", _("accepted")  # a person has decided that it may stay

    id = models.UUIDField(primary_key=True, editable=False)
    kind = models.CharField(_("kind"), max_length=20, choices=Kind.choices)
    status = models.CharField(_("status"), max_length=10, choices=Status.choices)
    gateway = models.CharField(_("gateway"), max_length=20)
    transaction_id = models.CharField(_("transaction id"), max_length=100, blank=True)
    what = models.CharField(_("what was booked"), max_length=20, choices=GatewayTransaction.Kind.choices)
    payment_id = models.CharField(_("payment id"), max_length=100, blank=True)
    order_id = models.CharField(_("order id"), max_length=64, blank=True)
    entry_id = models.UUIDField(_("entry"), null=True)
    amount_there = models.BigIntegerField(_("amount at the gateway"), null=True, help_text=_("in minor units"))
    currency_there = models.CharField(_("currency at the gateway"), max_length=3, blank=True)
    amount_here = models.BigIntegerField(_("amount in the ledger"), null=True, help_text=_("in minor units"))
    currency_here = models.CharField(_("currency in the ledger"), max_length=3, blank=True)
    at = models.DateTimeField(_("at"))
    found_at = models.DateTimeField(_("found at"))
    seen_at = models.DateTimeField(_("last seen at"))  # by a run
    tried_at = models.DateTimeField(_("repair tried at"), null=True)
    closed_at = models.DateTimeField(_("closed at"), null=True)
    closed_by = models.CharField(_("closed by"), max_length=150, blank=True)
    closed_why = models.CharField(_("reason"), max_length=200, blank=True)

    class Meta:
        verbose_name = _("difference from a gateway")
        verbose_name_plural = _("differences from gateways")
        indexes = [
            models.Index(fields=["kind", "id"], condition=Q(status="open"), name="difference_open"),
            models.Index(fields=["order_id"], condition=~Q(order_id=""), name="difference_of_order"),
            models.Index(fields=["payment_id"], condition=~Q(payment_id=""), name="difference_of_payment"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.transaction_id or self.entry_id}"
