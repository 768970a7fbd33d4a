"""What a service has answered under Idempotency-Keys."""

from typing import Any, ClassVar

from django.utils.translation import gettext_lazy as _

from . import display as show
from .readonly import ReadOnlyAdmin


class IdempotencyKeyAdmin(ReadOnlyAdmin):
    """What was answered under an Idempotency-Key."""

    list_display: Any = ("key", "principal", "answer_status", "created_at")
    search_by: tuple[str, ...] = ("key",)
    order = ("-id",)
    fields: ClassVar[Any] = (
        "principal", "key", "fingerprint", "answer_status", show.json("answer", _("answer")),
        show.json("answer_headers", _("answer headers")), "created_at",
    )  # fmt: skip
