"""The tables of the back office: permissions of operators, approvals, performed actions, and clients of the API."""

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from oauth2_provider.models import AbstractApplication

from common.performed_actions import AbstractPerformedAction
from common.principal import SCOPES
from outbox.ids import uuid7


class OperatorPermission(models.Model):  # noqa: DJ008 - there are no rows to name
    """Has no table: it declares the permissions of operators, which are granted to roles or users."""

    class Meta:
        managed = False
        default_permissions = ()
        permissions = [
            ("retry_order", _("repeat the last request of an order")),
            ("cancel_order", _("cancel an order")),
            ("capture_order", _("capture the money that is reserved for an order")),
            ("refund_order", _("refund money of an order that stays")),
            ("resolve_order", _("resolve an order with evidence")),
            ("approve", _("approve the requests of others")),
            ("replay_letter", _("replay dead letters")),
            ("discard_letter", _("discard dead letters")),
            ("correct_message", _("correct the data of dead letters and replay them")),
            ("edit_product", _("add and edit products")),
            ("move_stock", _("receive and correct stock")),
            ("deposit", _("deposit money")),
            ("correct_account", _("correct the balance of an account")),
            ("match_webhook", _("match a quarantined webhook with an order")),
            ("refund_webhook", _("refund the money of a quarantined webhook")),
            ("discard_webhook", _("discard a quarantined webhook")),
            ("resend_webhook", _("resend webhooks to customers")),
            ("edit_endpoint", _("register webhook endpoints")),
            ("edit_client", _("create clients of the API and renew their secrets")),
        ]


class PerformedAction(AbstractPerformedAction):
    """A form of the back office that has been carried out."""


class Approval(models.Model):
    """An action of one person that moves much money, which is performed when a second person approves it."""

    class Status(models.TextChoices):
        WAITING = "waiting", _("waiting")
        APPROVED = "approved", _("approved")
        REJECTED = "rejected", _("rejected")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    verb = models.CharField(_("action"), max_length=40)
    subject = models.CharField(_("subject"), max_length=64)
    amount = models.BigIntegerField(_("amount"), help_text=_("in minor units"))
    currency = models.CharField(_("currency"), max_length=3)
    reason = models.CharField(_("reason"), max_length=500)
    call = models.JSONField(_("values"), default=dict, db_default={})
    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.WAITING)
    asked_by = models.CharField(_("requested by"), max_length=150)
    asked_at = models.DateTimeField(_("requested at"), default=timezone.now)
    decided_by = models.CharField(_("decided by"), max_length=150, blank=True)
    decided_at = models.DateTimeField(_("decided at"), null=True)

    class Meta:
        verbose_name = _("approval")
        verbose_name_plural = _("approvals")
        default_permissions = ("view",)
        constraints = [
            models.UniqueConstraint(
                fields=["verb", "subject"], condition=models.Q(status="waiting"), name="one_open_approval"
            ),
            models.CheckConstraint(
                condition=models.Q(status="waiting")
                | ~models.Q(decided_by="") & ~models.Q(decided_by=models.F("asked_by")),
                name="second_person_decides",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.verb} {self.subject}"


class Erasure(models.Model):
    """
    A request to erase the data of a person, which a second person approves. See orders_project/people_data.py.

    Once it is done or rejected, it does not say any more whom it was about.
    """

    class Status(models.TextChoices):
        WAITING = "waiting", _("waiting")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        REJECTED = "rejected", _("rejected")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    names = models.JSONField(_("user ids and emails"), default=list)
    client = models.CharField(_("client"), max_length=100, null=True)  # noqa: DJ001 - empty is a client as well
    key = models.BinaryField(null=True, editable=False)  # makes the pseudonyms
    reason = models.CharField(_("reason"), max_length=500)
    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.WAITING)
    erased = models.JSONField(_("rows erased"), default=dict)  # by table
    asked_by = models.CharField(_("requested by"), max_length=150)
    asked_at = models.DateTimeField(_("requested at"))
    decided_by = models.CharField(_("decided by"), max_length=150, blank=True)
    decided_at = models.DateTimeField(_("decided at"), null=True)
    done_at = models.DateTimeField(_("done at"), null=True)

    class Meta:
        verbose_name = _("erasure of personal data")
        verbose_name_plural = _("erasures of personal data")
        default_permissions = ("view",)
        permissions = [
            ("export_person", _("export the data of a person")),
            ("erase_person", _("request and approve that the data of a person is erased")),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(status="waiting")
                | ~models.Q(decided_by="") & ~models.Q(decided_by=models.F("asked_by")),
                name="second_person_erases",
            ),
            models.CheckConstraint(
                condition=models.Q(status__in=["waiting", "running"]) | models.Q(names=[], key=None),
                name="erasure_forgets_whom",
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)


class SavedFilter(models.Model):
    """
    A search with its filters and its sorting, which somebody has saved on a list. See common/admin/saved_filters.py.

    # Note [No foreign key]: the release before deletes a user without knowing this table.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, db_constraint=False, db_index=False, related_name="+"
    )  # fmt: skip
    page = models.CharField(_("list"), max_length=100)
    name = models.CharField(_("name"), max_length=60)
    params = models.JSONField(_("filter"))
    shared = models.BooleanField(_("for everyone"), default=False)
    saved_at = models.DateTimeField(_("saved at"))

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["user", "page", "name"], name="one_saved_filter_of_a_name")]
        indexes = [models.Index(fields=["page"], condition=models.Q(shared=True), name="shared_filters")]

    def __str__(self) -> str:
        return self.name


class BulkRun(models.Model):
    """
    An action with many rows of a list, which the back office performs in the background.

    What it covers is stored when it is confirmed. See common/admin/bulk_runs.py.
    """

    class Status(models.TextChoices):
        RUNNING = "running", _("running")
        FINISHED = "finished", _("finished")
        STOPPED = "stopped", _("stopped")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    request_id = models.UUIDField(unique=True, editable=False)
    page = models.CharField(_("list"), max_length=100)
    action = models.CharField(_("action"), max_length=40)
    params = models.JSONField(_("filter"), default=list)
    values = models.JSONField(_("values"), default=dict)
    total = models.IntegerField(_("rows"))
    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.RUNNING)
    why_stopped = models.CharField(_("why it was stopped"), max_length=200, blank=True)
    by = models.CharField(_("by"), max_length=150)
    user_id = models.BigIntegerField(editable=False)
    language = models.CharField(max_length=10, editable=False)
    started_at = models.DateTimeField(_("started at"))
    ended_at = models.DateTimeField(_("ended at"), null=True)
    results = models.JSONField(default=dict, editable=False)  # rows by outcome, when the rows themselves are deleted
    claimed_by = models.UUIDField(null=True, editable=False)
    claimed_until = models.DateTimeField(null=True, editable=False)

    class Meta:
        verbose_name = _("bulk action")
        verbose_name_plural = _("bulk actions")
        default_permissions = ("view",)
        indexes = [models.Index(fields=["id"], condition=models.Q(status="running"), name="bulk_runs_to_do")]

    def __str__(self) -> str:
        return f"{self.page}.{self.action} {self.id}"


class BulkRow(models.Model):
    """A row that a bulk run covers, and what became of it."""

    class Outcome(models.TextChoices):
        TO_DO = "", _("still to be done")
        DONE = "done", _("done")
        SKIPPED = "skipped", _("skipped")
        FAILED = "failed", _("failed")

    run = models.ForeignKey(BulkRun, models.CASCADE, related_name="rows", db_index=False)
    key = models.CharField(max_length=100)
    outcome = models.CharField(max_length=10, choices=Outcome.choices, blank=True, default=Outcome.TO_DO)
    said = models.CharField(max_length=300, blank=True, default="")

    class Meta:
        default_permissions = ()
        indexes = [models.Index(fields=["run", "outcome", "id"], name="bulk_rows_by_outcome")]

    def __str__(self) -> str:
        return self.key


class Client(AbstractApplication):
    """A program that may call the API. Its client id is the name of the principal that owns what it creates."""

    scopes = models.TextField(_("scopes"), help_text=_("What the client may do, separated by spaces."))

    class Meta(AbstractApplication.Meta):
        abstract = False
        verbose_name = _("client")
        verbose_name_plural = _("clients")

    def clean(self) -> None:
        super().clean()
        if unknown := set(self.scopes.split()) - set(SCOPES):
            raise ValidationError({"scopes": _("Unknown scopes: %s") % ", ".join(sorted(unknown))})
