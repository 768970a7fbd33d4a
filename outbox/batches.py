"""
Messages of one type that travel and are handled together.

# Note [Why batches, and none for waiting]: most of what a message costs is not its effect but the broker's frame, the
# task, and the round trips and the flush of a transaction. The relay claims what has been posted since it last looked:
# the busier the system, the more that is. What is claimed together for one handler, in one queue, travels as one
# message of the broker, is one task, and one transaction. An idle system sends batches of one, which are messages as
# they always were; nothing ever waits for a batch to fill.

# Note [Nobody suffers from a neighbor]: a batch is a short cut that may be left at any time, as nothing of it is
# committed before all of it. If anything is unusual (one cannot be read, a handler raises, the broker has delivered
# the batch before) its messages are handled one by one, as if each had come alone: each with its own attempts, its own
# dead letter, and its own row that says that handling it was begun. So is what the broker gives up: see collector.py.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import transaction

from . import clock, conf, context, metrics, partitions, strict_json
from .arrivals import Arrived, log_handled, read
from .conflicts import retry_on_conflict
from .errors import CodedError
from .message import REGISTRY
from .retention import remembers

if TYPE_CHECKING:
    from .consumers import Consumer
    from .models import OutgoingMessage

logger = logging.getLogger(__name__)

MAX_MESSAGES = 25  # so that no worker is given much while others have nothing to do
BATCH_BYTES = 64 * 1024  # of the data of a batch
FIRST_SECONDS = 1.0  # that calls before a transaction take until what they have found is committed


# Sending ------------------------------------------------------------------------------------------------------------


def packed(rows: Sequence["OutgoingMessage"]) -> list[list["OutgoingMessage"]]:
    """Return these rows in groups: those of a group travel together. Their order is that of the first of each."""
    groups: list[_Group] = []
    open_groups: dict[tuple[str, str], _Group] = {}
    for row in rows:
        queue = partitions.queue_of(row.type, to=row.to, subject=row.subject, id=str(row.message_id))
        key, size = (queue, row.type), _size(row) if _may_travel(row) else BATCH_BYTES
        group = open_groups.get(key)
        if group is None or len(group.rows) >= MAX_MESSAGES or group.size + size > BATCH_BYTES:
            group = _Group()
            groups.append(group)
            if size < BATCH_BYTES:
                open_groups[key] = group
        group.rows.append(row)
        group.size += size
    return [group.rows for group in groups]


@dataclass
class _Group:
    rows: list["OutgoingMessage"] = field(default_factory=list)
    size: int = 0


def _size(row: "OutgoingMessage") -> int:
    return len(strict_json.write(row.data))


def _may_travel(row: "OutgoingMessage") -> bool:
    """Whether others may travel with it: not if it has failed before, nor to workers of a release that takes one."""
    kind = REGISTRY.get(row.type)
    is_batched = kind is not None and kind.batched and kind.to == row.to and not conf.OUTBOX_WITHHOLDS
    return is_batched and not row.attempt and not row.publish_attempts and row.waiting_since is None


# Handling -----------------------------------------------------------------------------------------------------------


def handled_together(consumer: "Consumer", raws: Sequence[object]) -> bool:
    """
    Handle these messages of one batch in as few transactions as can be; return false if that is not possible.

    Then some of them may have been handled, and each is to be handled on its own: a copy does nothing.
    """
    if consumer.together is None:
        return False
    try:
        rest = [_read(consumer, raw) for raw in raws]
        while rest:
            rest = _handle(consumer, rest)
    except Exception as error:
        logger.info("A batch of %d messages is handled one by one: %s: %s", len(raws), type(error).__name__, error)
        metrics.BATCHES_SPLIT.labels(consumer.service).inc()
        return False
    return True


def _read(consumer: "Consumer", raw: object) -> Arrived:
    """
    Return a message of a batch.

    :raises CodedError: if it is not one that is handled now
    """
    envelope = read(raw)
    if envelope.type != consumer.message.name or not remembers(consumer.service, envelope):
        raise CodedError("not_in_a_batch", "It is of another type, or older than the inbox remembers.")
    return Arrived(envelope, envelope.message())


def _handle(consumer: "Consumer", arrived: Sequence[Arrived]) -> list[Arrived]:
    """Handle the first of these messages, those whose calls take no longer than they may; return the rest."""
    began, received_at = time.monotonic(), clock.now(consumer.database)
    asked: list[Arrived] = []
    answers = _answers(consumer, arrived)
    for one in arrived:
        if asked and time.monotonic() - began > FIRST_SECONDS:
            break
        asked.append(replace(one, answer=next(answers)))
    new = _commit(consumer, asked, received_at=received_at)
    metrics.BATCH_SIZE.labels(consumer.service).observe(len(asked))
    share = (time.monotonic() - began) / len(asked)
    for one in asked:
        log_handled(consumer.service, one.envelope, is_new=one.envelope.id in new, seconds=share)
    return list(arrived[len(asked) :])


def _answers(consumer: "Consumer", arrived: Sequence[Arrived]) -> Iterator[Any]:
    """Call for each of these messages what comes first, when its turn comes; None for those that were handled."""
    if consumer.first is None:
        yield from (None for _ in arrived)
        return
    seen = consumer.incoming.seen_of([one.envelope for one in arrived])
    answers = consumer.first([one.message for one in arrived if one.envelope.id not in seen])
    for one in arrived:
        answer = None
        if one.envelope.id not in seen:
            with context.acting(one.envelope.context):
                answer = next(answers)
        yield answer


@retry_on_conflict
def _commit(consumer: "Consumer", arrived: Sequence[Arrived], *, received_at: datetime) -> set[str]:
    """Handle those of these messages that are new, and return their ids: inbox rows, effects and replies in one."""
    assert consumer.together is not None
    with transaction.atomic(using=consumer.database):
        envelopes = [one.envelope for one in arrived]
        new = consumer.incoming.record_all(envelopes, received_at=received_at)
        unique = {one.envelope.id: one for one in arrived if one.envelope.id in new}
        if unique:
            consumer.together(list(unique.values()))
        return new
