"""Rows for every table that the back office shows, with any text in every field that holds one."""

from typing import Any

from django.contrib import admin
from django.db import models
from django.utils import timezone

from common.admin import ReadOnlyAdmin
from outbox.ids import uuid7

NEEDS: dict[str, dict[str, Any]] = {  # what constraints ask for
    "orders_project.Approval": {"status": "waiting", "verb": "compensate_order"},
    "payments.Entry": {"kind": "deposit"},
    "processing.StockMovement": {"kind": "received"},
    "processing.Product": {"available": 1, "held": 0, "sold": 0, "received": 1},
}


def shown() -> list[type[models.Model]]:
    """The tables of the services and of the roof, in the order in which they refer to each other."""
    windows = [model for model, page in admin.site._registry.items() if isinstance(page, ReadOnlyAdmin)]
    ours = [model for model in windows if not model.__module__.startswith("django")]
    late = [model for model in ours if any(field.is_relation for field in model._meta.concrete_fields)]
    return [model for model in ours if model not in late] + late


def fill(model: type[models.Model], text: str) -> models.Model:
    """Store a row whose texts all hold this, each cut to the length of its field."""
    row = model()
    for field in model._meta.concrete_fields:
        if isinstance(field, models.AutoField):
            continue
        value = _value(field, text)
        if value is not None:
            setattr(row, field.attname, value)
    for name, value in NEEDS.get(model._meta.label, {}).items():
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
        return {text: [text, {"deep": text}]}
    if isinstance(field, models.BinaryField):
        return text.encode()
    if isinstance(field, models.DateTimeField):
        return None if field.null else timezone.now()
    if isinstance(field, models.BooleanField):
        return True
    return 1 if isinstance(field, models.IntegerField) and not field.null else None


UNIQUE = {"user_id", "webhook_id", "key", "gateway_payment_id", "order_id", "request_id", "subject"}
