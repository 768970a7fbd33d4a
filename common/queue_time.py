"""How long the request that this thread works on has waited until a thread was free for it: the server says so."""

from contextvars import ContextVar

waited: ContextVar[float] = ContextVar("waited", default=0.0)  # seconds
