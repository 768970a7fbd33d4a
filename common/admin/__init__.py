"""What the back office of every service is made of: windows on what is written, and verbs to act with."""

from . import display as show
from . import panels
from .actions import Action, ActionCall, AmountField, ConfirmationForm, ReasonForm, ShortReasonForm
from .filters import Age, scan_filter
from .idempotency_keys import IdempotencyKeyAdmin
from .messages import register_outbox_admin
from .readonly import ReadOnlyAdmin, ReadOnlyInline

__all__ = [
    "Action",
    "ActionCall",
    "Age",
    "AmountField",
    "ConfirmationForm",
    "IdempotencyKeyAdmin",
    "ReadOnlyAdmin",
    "ReadOnlyInline",
    "ReasonForm",
    "ShortReasonForm",
    "panels",
    "register_outbox_admin",
    "scan_filter",
    "show",
]  # fmt: skip
