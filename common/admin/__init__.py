"""What the back office of every room is made of: windows on what is written, and verbs to act with."""

from . import display as show
from . import panels
from .actions import AmountField, Briefly, Deed, Reasoned, Sure, Verb
from .filters import Age, sieve
from .idempotency_keys import Answers
from .messages import register_mailbox
from .readonly import Glimpse, Window

__all__ = [
    "Age", "AmountField", "Answers", "Briefly", "Deed", "Glimpse", "Reasoned", "Sure", "Verb", "Window", "panels",
    "register_mailbox", "show", "sieve",
]  # fmt: skip
