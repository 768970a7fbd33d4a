"""Creates rows for every table of the back office, with a given text in each of their text fields."""

from typing import Any

from django.contrib import admin
from django.db import models
from django.utils import timezone

from common.admin import ReadOnlyAdmin
from outbox.ids import uuid7

REQUIRED: dict[str, dict[str, Any]] = {  # by the constraints of the tables
    "orders_project.Approval": {"status": "waiting", "verb": "orders.order.compensate"},
    "orders_project.BulkRun": {"page": "orders.order"},
    "orders.WebhookEndpoint": {"hears_all": False},
    "payments.Entry": {"kind": "deposit"},
    "payments.Reconciliation": {"found": [{"outcome": "matched", "currency": "USD", "count": 1, "sum": 1}]},
    "processing.StockMovement": {"kind": "received"},
    "processing.Product": {"available": 1, "held": 0, "sold": 0, "received": 1},
}


def admin_models() -> list[type[models.Model]]:
    """The models with a read-only admin page, those without foreign keys first."""
    found = [model for model, page in admin.site._registry.items() if isinstance(page, ReadOnlyAdmin)]
    ours = [model for model in found if not model.__module__.startswith("django")]
    dependent = [model for model in ours if any(field.is_relation for field in model._meta.concrete_fields)]
    return [model for model in ours if model not in dependent] + dependent


def fill(model: type[models.Model], text: str) -> models.Model:
    """Store a row with this text in all its text fields, cut to their lengths."""
    row = model()
    for field in model._meta.concrete_fields:
        if isinstance(field, models.AutoField):
            continue
        value = _value(field, text)
        if value is not None:
            setattr(row, field.attname, value)
    for name, value in REQUIRED.get(model._meta.label, {}).items():
        setattr(row, name, value)
    model._base_manager.bulk_create([row])
    return row


def _value(field: Any, text: str) -> Any:
    if isinstance(field, models.ForeignKey):
        return None if field.null else fill(field.related_model, text).pk
    if isinstance(field, models.UUIDField):
        return uuid7()
    if isinstance(field, models.CharField | models.TextField):
        if field.choices:
            return field.choices[0][0]
        unique = field.unique or field.primary_key or field.name in UNIQUE
        return (str(uuid7())[:20] + text if unique else text)[: field.max_length or 5000]
    if isinstance(field, models.JSONField):
        return [] if field.default is list else {text: [text, {"deep": text}]}
    if isinstance(field, models.BinaryField):
        return text.encode()
    if isinstance(field, models.DateTimeField):
        return None if field.null else timezone.now()
    if isinstance(field, models.BooleanField):
        return True
    return 1 if isinstance(field, models.IntegerField) and not field.null else None


UNIQUE = {
    "user_id", "webhook_id", "key", "gateway_payment_id", "gateway_refund_id", "dispute_id", "order_id", "reference",
    "request_id", "subject",
}  # fmt: skip
