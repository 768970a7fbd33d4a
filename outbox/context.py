"""The context of what runs: one context variable for HTTP, gRPC, Celery and the outbox."""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import blake2b

CORRELATION_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True)
class Context:
    """
    The request or message that is being handled; `subject` is what a message is about.

    `is_replay` says that the message was a dead letter, which a person has sent again.
    """

    correlation_id: str
    causation_id: str | None = None
    traceparent: str | None = None
    subject: str | None = None
    is_replay: bool = False


_current: ContextVar[Context | None] = ContextVar("outbox_context", default=None)


def current() -> Context:
    """Return the context in force; outside of any, a fresh one each time."""
    return _current.get() or Context(correlation_id=new_correlation_id())


def peek() -> Context | None:
    """Return the context in force, if any."""
    return _current.get()


@contextmanager
def acting(context: Context) -> Iterator[Context]:
    """Run a block in this context."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


def headers() -> dict[str, str]:
    """Return the headers that carry the context in a call to another service."""
    here = _current.get()
    if here is None:
        return {}
    return {"X-Correlation-ID": here.correlation_id} | ({"traceparent": here.traceparent} if here.traceparent else {})


def new_correlation_id() -> str:
    return secrets.token_hex(16)


def accepted_correlation_id(*values: str | None) -> str:
    """Return the first of the ids that a caller sent which is well formed, or else a new one."""
    return next((value for value in values if value and CORRELATION_ID.fullmatch(value)), None) or new_correlation_id()


def accepted_traceparent(value: str | None, *, correlation_id: str) -> str:
    """Return the W3C traceparent that a caller sent if it is well formed, else that of `unsampled_trace`."""
    return value if value and TRACEPARENT.fullmatch(value) else unsampled_trace(correlation_id)


def unsampled_trace(correlation_id: str) -> str:
    """Return the traceparent of what nobody traces. It follows from the correlation id, so no row has to keep it."""
    made = blake2b(correlation_id.encode(), digest_size=24).hexdigest()
    return f"00-{made[:32]}-{made[32:]}-00"
