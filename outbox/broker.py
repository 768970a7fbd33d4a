"""
Publishing with confirmation: confirms are pipelined over a batch, and messages returned as unroutable are noticed.

# Note [Why not kombu's confirm]: it waits for one confirm at a time (1,700 messages a second against 14,700), takes
# any confirm for the one it waits for, and doesn't notice returned messages, which the broker confirms as well.
"""

import contextlib
import logging
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp
from amqp import spec
from amqp.exceptions import AccessRefused, AMQPError, ChannelError, NotFound

from . import conf, partitions, strict_json
from .envelope import Envelope
from .message import EVENTS

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 3.0
CONFIRM_TIMEOUT = 3.0
WINDOW = 256 * 1024  # bytes that are sent ahead of the answers
OLDEST_BROKER = (3, 10)
Encoded = tuple[str, str, amqp.Message]  # exchange, routing key, message
LOST = (OSError, AMQPError)  # amqp raises these when the connection or the channel is gone
_preferred: dict[str, str] = {}  # of the nodes in this setting: the one that is tried first

NO_EXCHANGE = "refused: there is no exchange {}"
UNREADABLE_HEADERS = "unreadable-headers"  # the one header of a message whose properties cannot be read: why


class BrokerTooOld(RuntimeError):
    """The broker has no quorum queues with delivery limits."""


def _read_properties(message: amqp.Message, class_id: int, buffer: Any, offset: int) -> int:
    """
    Read the properties of a message, or say in a header that they cannot be read.

    # Note [Headers of strangers]: the library reads the headers of a message within the connection, and what it cannot
    # represent (a time after the year 9999, say) raises there: whoever consumes the queue would never get past it.
    """
    try:
        return int(_read_properties_strictly(message, class_id, buffer, offset))
    except Exception as error:
        message.properties = {"application_headers": {UNREADABLE_HEADERS: f"{type(error).__name__}: {error}"}}
        return offset


_read_properties_strictly = amqp.Message._load_properties
amqp.Message._load_properties = _read_properties


@dataclass
class Outcome:
    """What the broker answered to a batch, by index: which messages it has, and which it has not and why."""

    confirmed: set[int] = field(default_factory=set)
    refused: dict[int, str] = field(default_factory=dict)
    declined: dict[int, str] = field(default_factory=dict)  # not taken now, whatever the message is
    waiting: set[int] = field(default_factory=set)  # sent, and not answered yet
    suspected: dict[int, str] = field(default_factory=dict)  # sent with one that this user may not send
    cut_off: str = ""  # why these will not be answered any more


def nodes(url: str) -> list[str]:
    """Return the address of each node that a setting names."""
    return [node.strip() for node in url.split(";")]


def connect(url: str | None = None, *, heartbeat: int = 0) -> amqp.Connection:
    """
    Return an open connection to the broker: to the first of its nodes that answers.

    # Note [A node that is frozen]: it takes connections and answers none, which costs a timeout. So the next one to
    # connect begins with the node that has answered last, and not with the same one again.

    :raises OSError, AMQPError: what the last node has answered, if none can be used
    :raises BrokerTooOld: below 3.10
    """
    url = url or conf.AMQP_URL
    *others, last = _in_order(url)
    for node in others:
        try:
            connection = _connect(node, heartbeat=heartbeat)
        except LOST as error:
            logger.warning("A node of the broker can't be reached, trying the next one: %s", error)
        else:
            _preferred[url] = node
            return connection
    _preferred[url] = last
    return _connect(last, heartbeat=heartbeat)


def answering_first(url: str) -> str:
    """Return a setting with the same nodes, of which the first one has just answered, if one does."""
    if len(nodes(url)) > 1:
        with contextlib.suppress(*LOST):
            connect(url).close()
    return ";".join(_in_order(url))


def _in_order(url: str) -> list[str]:
    known = nodes(url)
    first = known.index(_preferred.get(url, known[0]))
    return known[first:] + known[:first]


def leave(url: str, node: str) -> None:
    """
    Let the next connection begin with the node after this one, which is lost or declines.

    # Note [Once for each node]: a process has several connections to a node, and loses all of them. Only the first one
    that says so leads to the next node; the others would lead past it.
    """
    known = _in_order(url)
    if known[0] == node:
        _preferred[url] = known[1 % len(known)]


def delivers(node: str, queue: str) -> bool:
    """Return whether a node answers who asks a queue for a message. One that comes goes back as the connection ends."""
    try:
        connection = _connect(node, heartbeat=0)
    except LOST:
        return False
    try:
        channel = connection.channel()
        channel.send_method(spec.Basic.Get, "Bsb", (0, queue, False))
        channel.wait([spec.Basic.GetOk, spec.Basic.GetEmpty], timeout=CONFIRM_TIMEOUT)
    except ChannelError:
        logger.debug("%s is not there, or not ours: an answer as well", queue)
    except LOST:
        connection.collect()
        return False
    with contextlib.suppress(*LOST):
        connection.close()
    return True


def _connect(url: str, *, heartbeat: int) -> amqp.Connection:
    parts = urlsplit(url)
    tls: Any = {"context": ssl.create_default_context()} if parts.scheme == "amqps" else False
    connection = amqp.Connection(
        host=f"{parts.hostname}:{parts.port or (5671 if tls else 5672)}",
        userid=unquote(parts.username or "guest"),
        password=unquote(parts.password or "guest"),
        virtual_host=unquote(parts.path[1:]) or "/",
        ssl=tls,
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=CONFIRM_TIMEOUT,
        write_timeout=CONFIRM_TIMEOUT,
        heartbeat=heartbeat,
    )
    connection.connect()
    version = str(connection.server_properties.get("version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_BROKER:
        connection.close()
        raise BrokerTooOld(f"RabbitMQ {version} is too old: 3.10 or newer is needed.")
    return connection


def address(queue: str, type: str) -> tuple[str, str]:
    """
    Return exchange and routing key for a message of this type that waits in this queue: see `OUTBOX_EXCHANGE`.

    # Note [The type is in the routing key]: there the broker can see it, and refuse a message that this user may not
    # send. Consumers compare it with what the message says of itself: see `type_of`.
    """
    return (conf.OUTBOX_EXCHANGE, f"{_word(queue)}.{type}") if conf.OUTBOX_EXCHANGE else ("", queue)


def binding(queue: str) -> str:
    """Return the key that binds a queue to `OUTBOX_EXCHANGE`."""
    return f"{_word(queue)}.#"


def type_of(exchange: object, routing_key: object) -> str | None:
    """Return the type under which a message was sent through `OUTBOX_EXCHANGE`, or None if it came another way."""
    is_ours = bool(conf.OUTBOX_EXCHANGE) and exchange == conf.OUTBOX_EXCHANGE
    return str(routing_key).partition(".")[2] if is_ours else None


def _word(queue: str) -> str:
    return queue.replace(".", "-")  # a dot would make two words of it, and `orders.#` match `orders.webhooks` too


def encode(envelope: Envelope, *others: Envelope, to: str) -> Encoded:
    """
    Return exchange, routing key and message: a Celery task for a service, a CloudEvent for the outside world.

    :param others: messages of the same type that travel with this one to the same queue: see batches.py
    """
    common = {
        "content_encoding": "utf-8",
        "delivery_mode": 2,
        "message_id": envelope.id,
        "type": envelope.type,
        "correlation_id": envelope.id,
    }
    if to == EVENTS:
        message = amqp.Message(envelope.encode(), content_type="application/cloudevents+json", **common)
        return EVENTS, envelope.type, message
    headers = {
        "lang": "py",
        "task": envelope.type,
        "id": envelope.id,
        "root_id": envelope.correlationid,
        "parent_id": envelope.causationid,
        "retries": 0,
        "timelimit": [None, None],
        # What Celery's own tools show of it.
        "argsrepr": f"({envelope.type} {envelope.subject}{f' +{len(others)}' if others else ''})",
    }
    options = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    body = strict_json.write([[one.as_dict() for one in (envelope, *others)], {}, options])
    queue = partitions.queue_of(envelope.type, to=to, subject=envelope.subject, id=envelope.id)
    return *address(queue, envelope.type), amqp.Message(
        body, content_type="application/json", application_headers=headers, **common
    )


@dataclass(frozen=True)
class _Sent:
    """A message that was published, and is not answered yet."""

    outcome: Outcome
    index: int
    message_id: str
    size: int
    at: float = field(default_factory=time.monotonic)


class _Lane:
    """A channel for one exchange, so that one that is missing, which closes the channel, stops no other message."""

    def __init__(self, connection: amqp.Connection, exchange: str) -> None:
        self.exchange = exchange
        self.waiting: dict[int, _Sent] = {}  # by delivery tag
        self.has_declined = False
        self._tag = 0
        self._channel = connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._on_ack)
        self._channel.events["basic_nack"].add(self._on_nack)
        self._channel.events["basic_return"].add(self._on_return)

    def publish(self, sent: _Sent, message: amqp.Message, *, routing_key: str) -> None:
        # First of all it reads what has arrived, which may raise: then nothing was sent.
        self._channel.basic_publish(message, exchange=self.exchange, routing_key=routing_key, mandatory=True)
        self._tag += 1
        self.waiting[self._tag] = sent
        sent.outcome.waiting.add(sent.index)

    def close(self, *, error: ChannelError) -> None:
        """Close the channel after this error, which concerns what waits for an answer."""
        for sent in self.waiting.values():
            sent.outcome.waiting.discard(sent.index)
            if isinstance(error, NotFound):
                sent.outcome.refused[sent.index] = NO_EXCHANGE.format(self.exchange)
            else:
                sent.outcome.suspected[sent.index] = str(error)
        self.waiting = {}
        self._channel.close()

    def _answered(self, tag: int, multiple: bool) -> Iterator[_Sent]:
        for one in [t for t in self.waiting if t <= tag] if multiple else [tag]:
            if (sent := self.waiting.pop(one, None)) is not None:
                sent.outcome.waiting.discard(sent.index)
                yield sent

    def _on_ack(self, tag: int, multiple: bool) -> None:
        for sent in self._answered(tag, multiple):
            if sent.index not in sent.outcome.refused:  # a returned message is confirmed as well, after its return
                sent.outcome.confirmed.add(sent.index)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        for sent in self._answered(tag, multiple):
            sent.outcome.declined[sent.index] = "nack: the broker did not accept it"
            self.has_declined = True

    def _on_return(self, error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        for sent in self.waiting.values():
            if sent.message_id == message.properties.get("message_id"):
                why = f"returned: no queue for {exchange or 'the default exchange'}/{routing_key}"
                sent.outcome.refused[sent.index] = why


class Publisher:
    """
    A connection that publishes batches. Any failure of it closes it; the next call opens a new one.

    # Note [A slow broker gets no copies]: a message that is not answered in time stays the broker's as long as the
    # connection lives: the answer is still added to its outcome when it comes (see `read_answers`). Only when the
    # connection is lost, or silent for two heartbeats, is there nothing left to wait for. And no more is sent ahead of
    # the answers than the buffers of a connection hold, so that sending never blocks on a broker that stands still.
    """

    def __init__(self, url: str | None = None, *, exchanges: Sequence[str] | None = None) -> None:
        """
        :param exchanges: to which it publishes; by default what messages need
        """
        self._url = url
        self._exchanges = exchanges
        self._connection: amqp.Connection | None = None
        self._node = ""
        self._is_full = False
        self._lanes: dict[str, _Lane] = {}

    def open(self) -> None:
        """
        Make sure that there is a connection.

        # Note [A node that declines]: while a node is lost, a channel may take it for the leader of a queue, and go on
        doing so (RabbitMQ 3.10): it declines every message to that queue, while any other channel may send to it. And
        so may the node itself, if it is the one that is cut off. So a connection is not used any more after it has
        declined a message, and the next one is to another node if there is one.

        :raises OSError, AMQPError: if none can be made
        """
        lanes = self._lanes.values()
        if any(lane.has_declined for lane in lanes) and not any(lane.waiting for lane in lanes):
            self._leave(why="it has declined a message")
        url = self._url or conf.AMQP_URL
        if self._connection is None or not self._connection.connected:
            self.close()
            self._connection = connect(url, heartbeat=conf.AMQP_HEARTBEAT)
            self._node, self._is_full = _in_order(url)[0], False
            self._connection.on_blocked = lambda reason: self._note(is_full=True)
            self._connection.on_unblocked = lambda: self._note(is_full=False)
        for exchange in self._exchanges or (conf.OUTBOX_EXCHANGE, EVENTS):
            if exchange not in self._lanes:
                self._lanes[exchange] = _Lane(self._connection, exchange)

    def close(self, *, why: str = "the connection was closed") -> None:
        """End the connection. What it has not answered will not be answered any more."""
        connection, self._connection = self._connection, None
        for sent in self._unanswered():
            sent.outcome.cut_off = why
        self._lanes = {}
        if connection is not None:
            try:
                connection.close()
            except LOST:
                connection.collect()

    def _leave(self, *, why: str) -> None:
        """End the connection without a good-bye, which a silent node would not answer; the next is to the next node."""
        leave(self._url or conf.AMQP_URL, self._node)
        if self._connection is not None:
            self._connection.collect()
        self.close(why=why)

    def publish(self, batch: Sequence[tuple[Sequence[Envelope], str]]) -> Outcome:
        """Publish messages, those that travel together in a sequence, each to its destination: see `send`."""
        return self.send([encode(*envelopes, to=to) for envelopes, to in batch])

    def send(self, batch: Sequence[Encoded]) -> Outcome:
        """
        Publish messages and wait for the answers together.

        Returns what is known after `CONFIRM_TIMEOUT`. A slow broker gets only the first of them, and the outcome names
        the others nowhere.

        # Note [What this user may not send]: the broker then closes the channel instead of refusing that message, and
        # it doesn't say which one it was. So those without an answer are sent again one by one, and only that one is
        # refused.
        """
        outcome, until = Outcome(), time.monotonic() + CONFIRM_TIMEOUT
        try:
            self.open()
            for index, encoded in enumerate(batch):
                if not self._publish(outcome, index, encoded, until=until):
                    break
            self._read_until(lambda: not outcome.waiting, until)
            for index in sorted(outcome.suspected):
                self._publish_alone(outcome, index, batch[index])
        except LOST as error:
            outcome.cut_off = f"{type(error).__name__}: {error}"
            self._leave(why=outcome.cut_off)
        return outcome

    def _publish(self, outcome: Outcome, index: int, encoded: Encoded, *, until: float) -> bool:
        """Publish a message; return false if the broker has not answered enough of the others in time."""
        exchange, routing_key, message = encoded
        sent = _Sent(outcome, index, message.properties.get("message_id", ""), len(message.body))
        if not self._read_until(lambda: self._has_room(sent.size), until):
            return False
        self._send(sent, message, exchange=exchange, routing_key=routing_key)
        return True

    def _publish_alone(self, outcome: Outcome, index: int, encoded: Encoded) -> None:
        """Publish a message that was sent with one that this user may not send, and see whether it is this one."""
        until = time.monotonic() + CONFIRM_TIMEOUT
        del outcome.suspected[index]
        self.open()
        self._publish(outcome, index, encoded, until=until)
        self._read_until(lambda: index not in outcome.waiting, until)
        if index in outcome.suspected:
            outcome.refused[index] = outcome.suspected.pop(index)

    def read_answers(self) -> None:
        """Add the answers that have come since to the outcomes of earlier batches, and keep the connection alive."""
        if self._connection is None:
            return
        try:
            while self._read(until=0.0):
                pass
        except LOST as error:
            self._leave(why=f"{type(error).__name__}: {error}")
        else:
            oldest = min((sent.at for sent in self._unanswered()), default=time.monotonic())
            is_late = time.monotonic() - oldest >= 3 * conf.AMQP_HEARTBEAT
            if is_late and not self._is_full and len(nodes(self._url or conf.AMQP_URL)) > 1:
                self._leave(why=f"the node has not answered for {3 * conf.AMQP_HEARTBEAT} s")

    def _note(self, *, is_full: bool) -> None:
        self._is_full = is_full

    def _send(self, sent: _Sent, message: amqp.Message, *, exchange: str, routing_key: str) -> None:
        while exchange in self._lanes:
            try:
                self._lanes[exchange].publish(sent, message, routing_key=routing_key)
            except (AccessRefused, NotFound) as error:
                self._close_lane(error)
            else:
                return
        if sent.outcome.suspected:
            sent.outcome.suspected[sent.index] = next(iter(sent.outcome.suspected.values()))
        else:
            sent.outcome.refused[sent.index] = NO_EXCHANGE.format(exchange)

    def _close_lane(self, error: ChannelError) -> None:
        """Close the lane whose exchange is named in this error, until the connection is used again."""
        closed = [lane for lane in self._lanes.values() if lane.exchange and f"'{lane.exchange}'" in str(error)]
        if not closed:
            raise error
        for lane in closed:
            del self._lanes[lane.exchange]
            lane.close(error=error)

    def _unanswered(self) -> Iterator[_Sent]:
        for lane in self._lanes.values():
            yield from lane.waiting.values()

    def _has_room(self, size: int) -> bool:
        ahead = sum(sent.size for sent in self._unanswered())
        return not ahead or ahead + size <= WINDOW

    def _read_until(self, done: Callable[[], bool], until: float) -> bool:
        """Read answers until this is true, and keep the connection alive; return false if it is not in time."""
        while not done():
            if (now := time.monotonic()) >= until:
                return False
            self._read(until=min(until, now + conf.AMQP_HEARTBEAT / 4))
        return True

    def _read(self, *, until: float) -> bool:
        """
        Read what comes next, an answer or a heartbeat; return false if nothing comes in time. Sends one if it is due.

        # Note [A heartbeat is no answer]: `drain_events` would wait on after one, as long again, without an end where
        # the broker answers nothing but is alive; and no heartbeat is sent meanwhile, so that it closes the connection.
        """
        connection, has_come = self._connection, True
        assert connection is not None
        try:
            connection.blocking_read(timeout=max(until - time.monotonic(), 0.0))
        except TimeoutError:
            has_come = False
        except (AccessRefused, NotFound) as error:
            self._close_lane(error)
        connection.heartbeat_tick()
        return has_come
