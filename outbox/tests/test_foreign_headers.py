"""What strangers write into the headers of a message stops nobody who reads it."""

import struct
from typing import Any

import amqp
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from outbox import broker, collector, context, tracing
from outbox.collector import collect
from outbox.deliveries import Delivery
from outbox.services import model_of
from outbox.tests.examples import SERVICE

DeadLetter = model_of(SERVICE, "DeadLetter")
EFFORT = effort(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DLQ = f"{SERVICE}.dlq"
HAS_HEADERS = 1 << 13  # a flag of the properties, as those below
HAS_TIMESTAMP = 1 << 6

# The values of a table of AMQP as bytes, whatever their type is.
WORDS = st.sampled_from([b"x-death", b"task", b"reason", b"time", b"count", b"\xff", b""]) | st.binary(max_size=20)


def table(items: list[tuple[bytes, bytes]]) -> bytes:
    packed = b"".join(struct.pack("B", len(name)) + name + value for name, value in items)
    return struct.pack(">I", len(packed)) + packed


PLAIN = st.one_of(
    WORDS.map(lambda text: b"S" + struct.pack(">I", len(text)) + text),
    WORDS.map(lambda text: b"x" + struct.pack(">I", len(text)) + text),
    st.integers(0, 2**64 - 1).map(lambda number: b"T" + struct.pack(">Q", number)),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: b"l" + struct.pack(">q", number)),
    st.floats(width=64).map(lambda number: b"d" + struct.pack(">d", number)),
    st.tuples(st.integers(0, 255), st.integers(-(2**31), 2**31 - 1)).map(lambda pair: b"D" + struct.pack(">Bi", *pair)),
    st.sampled_from([b"V", b"t\x01", b"b\xff", b"?"]),
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda found: b"A" + struct.pack(">I", len(b"".join(found))) + b"".join(found))
        | st.lists(st.tuples(WORDS, inner), max_size=3).map(lambda items: b"F" + table(items))
    ),
    max_leaves=8,
)
HEADERS = st.lists(st.tuples(WORDS, VALUES), max_size=5).map(table)
FOREVER = struct.pack(">Q", 2**63)


def nested(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        value = b"F" + table([(b"x-death", value)])
    return table([(b"x-death", value)])


def received(headers: bytes, *, body: bytes = b"[]", timestamp: bytes = b"") -> amqp.Message:
    """A message with these headers, as it is read from a connection."""
    message = amqp.Message()
    flags = HAS_HEADERS | (HAS_TIMESTAMP if timestamp else 0)
    message.inbound_header(struct.pack(">HxxQ", 60, len(body)) + struct.pack(">H", flags) + headers + timestamp)
    message.inbound_body(body)
    message.delivery_info = {"redelivered": False}
    return message


@pytest.mark.django_db
@given(headers=HEADERS, timestamp=st.sampled_from([b"", bytes(8), FOREVER]))
@example(headers=table([(b"x-death", b"b\x05")]), timestamp=b"")
@example(headers=table([(b"x-death", b"T" + FOREVER)]), timestamp=b"")
@example(headers=nested(300), timestamp=b"")
@example(headers=nested(3000), timestamp=FOREVER)
@EFFORT
def test_whatever_they_are_the_collector_stores_the_message(headers: bytes, timestamp: bytes) -> None:
    before = DeadLetter.objects.count()
    message = received(headers, timestamp=timestamp)
    for body in collector._bodies(message):
        collector._record(SERVICE, message, body)
    assert DeadLetter.objects.count() == before + 1


@given(rest=st.binary(max_size=200))
@EFFORT
def test_no_bytes_of_a_header_end_the_connection(rest: bytes) -> None:
    amqp.Message().inbound_header(struct.pack(">HxxQ", 60, 2) + rest)


@pytest.mark.django_db
def test_the_collector_goes_on_behind_what_nobody_can_read(channel: Any) -> None:
    for headers in (table([(b"x-death", b"b\x05")]), table([(b"at", b"T" + FOREVER)]), nested(200), table([])):
        message = amqp.Message(b"{}", content_type="application/json")
        message._serialize_properties = lambda raw=headers: struct.pack(">H", HAS_HEADERS) + raw
        channel.basic_publish(message, routing_key=DLQ)
    with channel.connection.channel() as another:  # what was published before is in the queue when this is answered
        another.confirm_select()
        another.basic_publish_confirm(amqp.Message(b"{}"), routing_key=DLQ)
    taken = 0
    while taken < 5:
        taken += collect(SERVICE)
    assert DeadLetter.objects.count() == 5
    unreadable = DeadLetter.objects.get(error__contains="cannot be read")
    assert unreadable.reason == "undecodable"
    assert broker.UNREADABLE_HEADERS in unreadable.headers


@pytest.mark.parametrize(
    "value", [None, 5, -1, float("nan"), "x", "", b"x", [1], {}, {"redelivered": [1]}, {"redelivered": 0}]
)
@pytest.mark.parametrize("name", ["delivery_info", "x-delivery-count", "task"])
def test_a_delivery_is_a_first_or_a_repeated_one(name: str, value: object) -> None:
    assert bool(Delivery(SERVICE, None, {name: value}, "w1").is_repeated) in (True, False)


@given(text=st.text() | st.from_regex(r"\A00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\n?\Z"))
@EFFORT
def test_a_trace_continues_or_a_new_one_begins(text: str) -> None:
    assert context.TRACEPARENT.fullmatch(context.accepted_traceparent(text, correlation_id="c"))
    assert context.CORRELATION_ID.fullmatch(context.accepted_correlation_id(text))
    tracing._span_context(text)
