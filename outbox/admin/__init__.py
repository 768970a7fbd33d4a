"""What the back office of every room is made of: windows on what is written, and verbs to act with."""

from . import panels, show
from .answers import Answers
from .filters import Age, sieve
from .mailbox import register_mailbox
from .verbs import AmountField, Briefly, Deed, Reasoned, Sure, Verb
from .window import Glimpse, Window

__all__ = [
    "Age", "AmountField", "Answers", "Briefly", "Deed", "Glimpse", "Reasoned", "Sure", "Verb", "Window", "panels",
    "register_mailbox", "show", "sieve",
]  # fmt: skip
