"""Stored responses of a service, by Idempotency-Key."""

from typing import Any, ClassVar

from django.utils.translation import gettext_lazy as _

from . import display
from .readonly import ReadOnlyAdmin


class IdempotencyKeyAdmin(ReadOnlyAdmin):
    """Stored responses, by Idempotency-Key."""

    list_display: Any = ("key", "principal", "answer_status", "created_at")
    search_by: tuple[str, ...] = ("key",)
    order = ("-id",)
    fields: ClassVar[Any] = (
        "principal", "key", "fingerprint", "answer_status", display.json("answer", _("answer")),
        display.json("answer_headers", _("answer headers")), "created_at",
    )  # fmt: skip
