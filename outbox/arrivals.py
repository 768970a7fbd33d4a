"""A message as it arrives: how it is read, in which context it is handled, and what is said of it afterwards."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import context, metrics, strict_json, tracing
from .envelope import MAX_ENVELOPE_BYTES, Envelope
from .errors import Unreadable
from .message import MAX_BYTES

logger = logging.getLogger(__name__)


def read(raw: object) -> Envelope:
    """
    Return the envelope that arrived.

    :raises Unreadable: if it is none, or larger than a message may be, or nested more deeply
    """
    text = strict_json.write(raw)
    if len(text) > MAX_BYTES + MAX_ENVELOPE_BYTES:
        raise Unreadable("too_large", "The message is larger than a message may be.")
    if strict_json.is_too_deep(raw, text):
        raise Unreadable("malformed", "The message is nested too deeply.")
    return Envelope.parse(raw)


@dataclass(frozen=True)
class Arrived:
    """A message that arrived, and what was called before the transaction has returned."""

    envelope: Envelope
    message: Any
    answer: Any = None

    @contextlib.contextmanager
    def acting(self) -> Iterator[Any]:
        """Run a block in its context, and as its span: what is posted there continues its trace."""
        about: dict[str, Any] = {
            "messaging__destination__name": self.message.to,
            "attempt": self.envelope.attempt,
        }
        with context.acting(self.envelope.context), tracing.span(self.envelope.type, kind="consumer", **about):
            yield self.message


def log_handled(service: str, envelope: Envelope, *, is_new: bool, seconds: float) -> None:
    """Log and count that a message was handled, now or before."""
    metrics.CONSUMER_SECONDS.labels(envelope.type).observe(seconds)
    if not is_new:
        metrics.INBOX_DUPLICATES.labels(service).inc()
    with context.acting(envelope.context):
        outcome = "handled" if is_new else "was handled before"
        logger.info("%s %s", envelope.type, outcome, extra={"seconds": round(seconds, 4)})
