"""Webhook endpoints, their secrets, and what was delivered to them."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from outbox.ids import uuid7


class WebhookEndpoint(models.Model):
    """An address that the events of one client's orders are sent to or, with `hears_all`, those of all orders."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    principal = models.CharField(_("client"), max_length=100, blank=True, default="", db_default="")
    # What processes of the version before register hears of everybody, as it did there: they do not know this column.
    hears_all = models.BooleanField(_("all clients"), default=False, db_default=True)
    url = models.CharField(_("URL"), max_length=500)
    events = models.JSONField(_("events"), default=list, blank=True, help_text=_("such as order.paid; none means all"))
    description = models.CharField(_("description"), max_length=500, blank=True, default="", db_default="")
    is_active = models.BooleanField(_("active"), default=True)
    disabled_because = models.CharField(_("disabled because"), max_length=50, blank=True)
    created_by = models.CharField(_("created by"), max_length=150, blank=True)
    created_at = models.DateTimeField(_("created at"))
    deleted_at = models.DateTimeField(_("deleted at"), null=True)

    new_secret = ""  # not stored: the secret, where it has just been made

    class Meta:
        verbose_name = _("webhook endpoint")
        verbose_name_plural = _("webhook endpoints")
        constraints = [
            models.CheckConstraint(
                condition=models.Q(hears_all=False) | models.Q(principal=""), name="endpoint_of_one_client_or_of_all"
            ),
            models.CheckConstraint(
                condition=models.Q(deleted_at=None) | models.Q(is_active=False), name="deleted_endpoint_is_off"
            ),
        ]
        indexes = [
            models.Index(fields=["principal"], condition=models.Q(is_active=True), name="webhook_endpoint_of_client"),
            models.Index(
                fields=["principal", "id"], condition=models.Q(deleted_at=None), name="webhook_endpoint_listed"
            ),
        ]

    def __str__(self) -> str:
        return self.url

    def wants(self, kind: str) -> bool:
        return not self.events or kind in self.events


class WebhookSecret(models.Model):
    """What signs the webhooks of an endpoint, encrypted. Only webhook_secrets.py reads it."""

    endpoint = models.ForeignKey(
        WebhookEndpoint, models.CASCADE, related_name="secrets", verbose_name=_("webhook endpoint")
    )
    sealed = models.TextField(_("encrypted secret"))
    created_at = models.DateTimeField(_("created at"))
    expires_at = models.DateTimeField(_("signs until"), null=True)

    class Meta:
        verbose_name = _("webhook secret")
        verbose_name_plural = _("webhook secrets")
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(
                fields=["endpoint"], condition=models.Q(expires_at=None), name="one_current_webhook_secret"
            )
        ]

    def __str__(self) -> str:
        return f"secret of {self.endpoint_id}"


class WebhookDelivery(models.Model):
    """One event on its way to one endpoint."""

    class Status(models.TextChoices):
        PENDING = "pending", _("pending")
        DELIVERED = "delivered", _("delivered")
        FAILED = "failed", _("failed")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    endpoint = models.ForeignKey(
        WebhookEndpoint,
        models.PROTECT,
        related_name="deliveries",
        verbose_name=_("webhook endpoint"),
        db_index=False,
    )
    event_id = models.UUIDField(_("event id"))
    type = models.CharField(_("type"), max_length=100)
    order_id = models.CharField(_("order id"), max_length=64, db_index=True, blank=True)  # empty: not about an order
    body = models.TextField(_("body"))
    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.PENDING)
    attempts = models.PositiveSmallIntegerField(_("attempts"), default=0)
    tries = models.PositiveSmallIntegerField(_("tries since it was last sent by hand"), default=0)
    next_at = models.DateTimeField(_("next attempt at"), null=True)
    created_at = models.DateTimeField(_("created at"))

    class Meta:
        verbose_name = _("webhook delivery")
        verbose_name_plural = _("webhook deliveries")
        constraints = [models.UniqueConstraint(fields=["endpoint", "event_id"], name="one_delivery_per_event")]
        indexes = [
            models.Index(
                fields=["created_at"],
                condition=models.Q(status__in=["pending", "failed"]),
                name="webhook_delivery_open",
            ),
            models.Index(fields=["next_at"], condition=models.Q(status="pending"), name="webhook_delivery_due"),
            models.Index(fields=["endpoint", "id"], name="webhook_delivery_of_endpoint"),
            models.Index(fields=["status", "id"], name="webhook_delivery_by_status"),
            models.Index(
                fields=["endpoint", "status", "id"],
                condition=models.Q(status__in=["pending", "failed"]),
                name="webhook_delivery_of_one_open",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.type} · {self.order_id}" if self.order_id else self.type


class WebhookAttempt(models.Model):
    """The result of sending a delivery once."""

    delivery = models.ForeignKey(
        WebhookDelivery, models.PROTECT, related_name="log", verbose_name=_("webhook delivery")
    )
    number = models.PositiveSmallIntegerField(_("number"))
    at = models.DateTimeField(_("at"))
    seconds = models.FloatField(_("seconds"))
    status_code = models.PositiveSmallIntegerField(_("status code"), null=True)
    response = models.TextField(_("response"), blank=True)
    error = models.CharField(_("error"), max_length=200, blank=True)

    class Meta:
        verbose_name = _("webhook attempt")
        verbose_name_plural = _("webhook attempts")
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["delivery", "number"], name="one_row_per_webhook_attempt")]

    def __str__(self) -> str:
        return f"{self.number}: {self.status_code or self.error}"
