"""What the web server knows of the request that a thread works on, and what decides whether a new order is admitted."""

from contextvars import ContextVar

waited: ContextVar[float] = ContextVar("waited", default=0.0)  # seconds until a thread was free
lot: ContextVar[float | None] = ContextVar("lot", default=None)  # one of the numbers from 0 to 1; none if not drawn yet
