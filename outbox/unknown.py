"""
What to do with a message that this release does not know.

# Note [Why it is put back]: during a rolling deploy old workers get messages of the new release, and after a rollback
# of the release after next. Another worker knows them, or will, so they are posted again, as the same ones, with a
# growing pause. Only one that has waited for `UNKNOWN_MESSAGE_WAIT` becomes a dead letter, for a person to look at.
"""

import logging
from datetime import datetime, timedelta

from . import conf, metrics
from .envelope import Envelope
from .services import model_of

logger = logging.getLogger(__name__)

SHORTEST, LONGEST = timedelta(seconds=2), timedelta(minutes=2)


def put_back(service: str, envelope: Envelope, *, now: datetime) -> bool:
    """
    Post a message again that this release does not know; return False if it has waited long enough.

    Call it in a transaction of the service's database.
    """
    since = envelope.waiting_since or now
    left = since + conf.UNKNOWN_MESSAGE_WAIT - now
    if left <= timedelta(0):
        return False
    pause = min(max(now - since, SHORTEST), LONGEST, left)  # twice as long each time
    model_of(service, "Outgoing").post_again(
        envelope, attempt=envelope.attempt, due_at=now + pause, waiting_since=since
    )
    metrics.PUT_BACK.labels(service).inc()
    logger.warning(
        "%s %s at version %d is not known to this release: it waits for a worker that knows it",
        envelope.type, envelope.id, envelope.schemaversion,
    )  # fmt: skip
    return True
