"""What the back office of every room is made of: windows on what is written, and verbs to act with."""

from . import panels, show
from .filters import Age, sieve
from .mailbox import DeadLetters, IncomingMessages, OutgoingMessages
from .verbs import AmountField, Deed, Reasoned, Sure, Verb
from .window import Glimpse, Window

__all__ = [
    "Age", "AmountField", "DeadLetters", "Deed", "Glimpse", "IncomingMessages", "OutgoingMessages", "Reasoned", "Sure",
    "Verb", "Window", "panels", "show",
    "sieve",
]  # fmt: skip
