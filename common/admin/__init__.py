"""The admin kit of every service: read-only pages over its tables, and actions of operators."""

from . import display, panels
from .actions import Action, ActionCall, ShownOnce
from .filters import Age, scan_filter
from .forms import AmountField, ConfirmationForm, ReasonForm, ShortReasonForm
from .idempotency_keys import IdempotencyKeyAdmin
from .lagging_lists import ListsMayLag
from .lookups import DeclaredLookups
from .messages import register_outbox_admin
from .readonly import ReadOnlyAdmin, ReadOnlyInline
from .saved_filters import SavedFilterPages

__all__ = [
    "Action",
    "ActionCall",
    "Age",
    "AmountField",
    "ConfirmationForm",
    "DeclaredLookups",
    "IdempotencyKeyAdmin",
    "ListsMayLag",
    "ReadOnlyAdmin",
    "ReadOnlyInline",
    "ReasonForm",
    "SavedFilterPages",
    "ShortReasonForm",
    "ShownOnce",
    "display",
    "panels",
    "register_outbox_admin",
    "scan_filter",
]  # fmt: skip
