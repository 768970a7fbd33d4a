"""
The stream of events: what was told to the outside world is kept for a while, and can be read from any point.

Reading takes nothing out of a stream. Where an event stands in it is its offset, which never changes. An event may
stand there more than once, and after a newer one of the same subject: its `id` and `sequence` say so.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import count
from time import monotonic
from typing import Any, Self

import amqp
from amqp.exceptions import AccessRefused, AMQPError, NotFound, PreconditionFailed, ResourceLocked

from . import conf, strict_json
from .broker import CONFIRM_TIMEOUT, LOST, Publisher, connect
from .message import EVENTS, REGISTRY

BATCH = 100  # events that are in memory at a time
FIRST_ANSWER = 5.0  # seconds for the broker to send something, if there is something
QUIET = 1.0  # seconds without another event: that was the end
LOOK = 1.0  # seconds between two looks whether the connection lives
SILENCE = 30.0  # seconds after which a broker that owes events or confirms is taken to stand still
SKEW = timedelta(minutes=5)  # between the clocks of the broker and of those who write events

Start = str | int | datetime  # "first", "next", an offset, or a time


class StreamError(RuntimeError):
    """The stream cannot be read or copied; says why."""


def declare() -> str:
    """
    Declare the stream and bind it to the events, or return why this broker keeps none as it is wanted.

    # Note [A connection of its own]: brokers without streams refuse one in different ways, and some close the
    # connection. Everything else is declared before and goes on without it.
    """
    arguments = {
        "x-queue-type": "stream",
        "x-max-age": conf.EVENTS_STREAM_MAX_AGE,
        "x-max-length-bytes": conf.EVENTS_STREAM_MAX_BYTES,
        "x-stream-max-segment-size-bytes": conf.EVENTS_STREAM_SEGMENT_BYTES,
    }
    name = conf.EVENTS_STREAM
    connection = connect()
    try:
        connection.channel().queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
        _bind(name)
    except AMQPError as error:
        try:
            with Reader("next"):
                _bind(name)
        except (StreamError, AMQPError):
            return f"{name}: the broker keeps no stream of events: {error}"
        return f"{name} keeps what it was declared with, not what is set now: {error}"
    finally:
        connection.collect()
    return ""


def _bind(name: str) -> None:
    with connect() as connection:
        connection.channel().queue_bind(name, EVENTS, "#")


@dataclass(frozen=True)
class Kept:
    """An event in the stream."""

    offset: int
    type: str
    message: amqp.Message

    @cached_property
    def event(self) -> dict[str, Any]:
        """The event, or nothing if it is none."""
        try:
            event = strict_json.parse(self.message.body)
        except ValueError:
            return {}
        return event if isinstance(event, dict) else {}

    @property
    def time(self) -> datetime | None:
        """When the event was written, if it says so."""
        try:
            time = datetime.fromisoformat(self.event["time"])
        except (KeyError, TypeError, ValueError):
            return None
        return time if time.tzinfo else None


class Reader:
    """
    Reads the stream from a point on, in a connection of its own. If that is lost, it goes on at another node.

    :raises StreamError: if there is no stream, or it may not be read
    """

    def __init__(self, start: Start, *, prefetch: int = BATCH) -> None:
        self._kept: list[Kept] = []
        self._offset = -1
        self._prefetch = prefetch
        self._unacknowledged: amqp.Message | None = None
        # Where to go on as long as nothing has come: at what came since, as far as the clocks agree.
        self._start = datetime.now(UTC) if start == "next" else start
        self._attach(start)

    def _attach(self, start: Start) -> None:
        self._connection = connect(heartbeat=conf.AMQP_HEARTBEAT)
        self._channel = self._connection.channel()
        try:
            self._channel.basic_qos(0, self._prefetch, False)
            self._channel.basic_consume(conf.EVENTS_STREAM, callback=self._take, arguments={"x-stream-offset": start})
        except (NotFound, PreconditionFailed, AccessRefused) as error:
            self._connection.collect()
            raise StreamError(_REFUSALS[type(error)].format(conf.EVENTS_STREAM)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        try:
            self._connection.close()
        except LOST:
            self._connection.collect()

    def _take(self, message: amqp.Message) -> None:
        # A message whose headers cannot be read (see `broker._read_properties`) follows the one before.
        self._offset = message.headers.get("x-stream-offset", self._offset + 1)
        self._kept.append(Kept(self._offset, str(message.delivery_info["routing_key"]), message))

    def count(self) -> int:
        """Return how many events there are, as the broker counts them every few seconds."""
        with connect() as connection:
            return int(connection.channel().queue_declare(conf.EVENTS_STREAM, passive=True).message_count)

    def read(self, *, wait: float) -> list[Kept]:
        """
        Return the next events: those that have come, up to `BATCH`; none if none comes in this time.

        :raises OSError, AMQPError: if the connection is lost, and no node can be connected to
        """
        until = monotonic() + wait
        for attempt in count():
            try:
                self._drain(until)
                break
            except LOST:
                self._connection.collect()
                if attempt and monotonic() >= until:
                    raise
                self._attach(self._start if self._offset < 0 else self._offset + 1)
        kept, self._kept = self._kept, []
        self._unacknowledged = kept[-1].message if kept else None
        return kept

    def _drain(self, until: float) -> None:
        message, self._unacknowledged = self._unacknowledged, None
        if message is not None and message.channel is self._channel:
            self._channel.basic_ack(message.delivery_tag, multiple=True)
        while len(self._kept) < BATCH:
            try:
                self._connection.heartbeat_tick()
                left = max(until - monotonic(), 0.001)
                self._connection.blocking_read(timeout=0.01 if self._kept else min(left, LOOK))
            except TimeoutError:
                if self._kept or monotonic() >= until:
                    break


_REFUSALS: dict[type[Exception], str] = {
    NotFound: "There is no stream {}: run manage.py declare_topology, which says if this broker has none.",
    PreconditionFailed: "{} is a queue and not a stream.",
    AccessRefused: "This user of the broker may not read the stream {}.",
}


@dataclass(frozen=True)
class Selection:
    """Which events are wanted: written from a time on, before a time, of a type as in bindings of a topic exchange."""

    since: datetime | None = None
    until: datetime | None = None
    type: str = "#"

    def __contains__(self, kept: Kept) -> bool:
        time = kept.time
        too_old = time is not None and self.since is not None and time < self.since
        too_new = time is not None and self.until is not None and time >= self.until
        if too_old or too_new:
            return False
        return re.fullmatch(_pattern(self.type), "." + kept.type) is not None


def _pattern(binding: str) -> str:
    words = {"*": r"\.[^.]+", "#": r"(\.[^.]+)*"}
    return "".join(words.get(word, r"\." + re.escape(word)) for word in binding.split("."))


@dataclass
class Progress:
    """How far a copy is. What lies before `next_offset` is done."""

    read: int = 0
    copied: int = 0
    next_offset: int | None = None
    first_offset: int | None = None


def start_of(selection: Selection, offset: int | None) -> Start:
    """
    Return where to begin reading: at the offset, or at the time, or at the beginning.

    # Note [Times are those of the events]: the stream knows only when an event arrived, which is when it was written or
    # later, so reading begins there; a little before, because clocks differ.
    """
    if offset is not None:
        return offset
    return selection.since - SKEW if selection.since else "first"


def kept_until(now: datetime, *, start: Start) -> Iterator[list[Kept]]:
    """
    Yield the events that are in the stream now, from a point on, some at a time.

    :raises StreamError: if there is no stream, or the broker stops on the way
    """
    last = _last()
    if last is None:
        return
    if isinstance(start, int):
        is_certain = start <= last.offset  # otherwise there may be some in the last chunk
    else:
        is_certain = not isinstance(start, datetime) or (last.time is not None and last.time >= start)
    next_offset = None
    with Reader(start) as reader:
        while True:
            is_due = is_certain if next_offset is None else next_offset <= last.offset
            kept = reader.read(wait=SILENCE if is_due else FIRST_ANSWER if next_offset is None else QUIET)
            if not kept:
                if is_due:
                    raise StreamError(f"The broker has sent nothing for {SILENCE:g} s, and there is more.")
                return
            yield kept
            next_offset = kept[-1].offset + 1
            if any(one.offset > last.offset and one.time and one.time > now + SKEW for one in kept):
                return  # written since it began


def replay(*, to: str, selection: Selection, offset: int | None, now: datetime) -> Iterator[Progress]:
    """
    Copy the events that are in the stream now to a queue. Yields its progress after each batch that is confirmed.

    :raises StreamError: if there is no stream or no such queue, or the broker stops on the way
    """
    _check_target(to)
    progress = Progress(next_offset=offset)
    publisher = Publisher(exchanges=[""])
    try:
        for kept in kept_until(now, start=start_of(selection, offset)):
            chosen = [one for one in kept if one in selection]
            _publish(publisher, to, chosen)
            if progress.first_offset is None:
                progress.first_offset = kept[0].offset
            progress.read += len(kept)
            progress.copied += len(chosen)
            progress.next_offset = kept[-1].offset + 1
            yield progress
    finally:
        publisher.close()
    yield progress


def _last() -> Kept | None:
    """
    Return an event at the end of the stream: only what was written together with it comes after it.

    :raises StreamError: if there are events, and the broker sends none
    """
    with Reader("last", prefetch=1) as reader:
        kept = reader.read(wait=FIRST_ANSWER)
        if not kept and reader.count():
            kept = reader.read(wait=SILENCE)
            if not kept:
                raise StreamError(f"The broker has sent nothing for {SILENCE:g} s, and there are events.")
    return kept[0] if kept else None


def _check_target(queue: str) -> None:
    """
    :raises StreamError: if there is no such queue, or it is one of ours, whose consumers expect something else
    """
    ours = {conf.EVENTS_STREAM, *(name for kind in REGISTRY.values() for name in (kind.to, kind.queue))}
    if queue in ours - {EVENTS} or any(queue.startswith(f"{name}.") for name in ours):
        raise StreamError(f"{queue} is a queue of this system: copy events to a queue of the subscriber.")
    with connect() as connection:
        try:
            connection.channel().queue_declare(queue, passive=True)
        except NotFound as error:
            raise StreamError(f"There is no queue {queue}: the subscriber declares it.") from error
        except (AccessRefused, ResourceLocked) as error:
            raise StreamError(f"The queue {queue} is not for this user of the broker: {error}") from error


def _publish(publisher: Publisher, queue: str, events: list[Kept]) -> None:
    """
    Publish events to a queue and wait until the broker has confirmed each.

    :raises StreamError: if it refuses one, or does not answer
    """
    rest = [("", queue, amqp.Message(one.message.body, **one.message.properties)) for one in events]
    while rest:
        outcome, until = publisher.send(rest), monotonic() + SILENCE
        while outcome.waiting and not outcome.cut_off and monotonic() < until:
            publisher.read_answers()
        if why := outcome.cut_off or next(iter((outcome.refused | outcome.declined | outcome.suspected).values()), ""):
            raise StreamError(f"{queue} has not taken all of them: {why}")
        if not outcome.confirmed:
            raise StreamError(f"The broker has not answered for {SILENCE + CONFIRM_TIMEOUT:g} s.")
        rest = [one for index, one in enumerate(rest) if index not in outcome.confirmed]
