"""The stream of events: late subscribers, retention, copies to a queue, brokers that keep no stream."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import amqp
import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command

from outbox import broker, stream
from outbox.envelope import Envelope
from outbox.ids import uuid7
from outbox.message import EVENTS

PAGE = Path(django_settings.BASE_DIR) / "docs" / "events.md"


def event(subject: str, sequence: int = 1, *, type: str = "order.paid", at: datetime | None = None) -> Envelope:
    return Envelope(
        id=str(uuid7()), source="/orders", type=type, subject=subject, time=(at or datetime.now(UTC)).isoformat(),
        schemaversion=1, sequence=f"{sequence:010}", correlationid="c", data={"padding": "x" * 700},
    )  # fmt: skip


def tell(*events: Envelope) -> None:
    publisher = broker.Publisher()
    for first in range(0, len(events), 200):
        batch = events[first : first + 200]
        assert len(publisher.publish([([one], EVENTS) for one in batch]).confirmed) == len(batch)
    publisher.close()


@pytest.fixture
def small_segments(settings: Any) -> None:
    settings.EVENTS_STREAM_SEGMENT_BYTES, settings.EVENTS_STREAM_MAX_BYTES = 20_000, 60_000


@pytest.fixture
def name(channel: Any, settings: Any) -> Iterator[str]:
    """An empty stream, and no other, keeps the events."""
    name = settings.EVENTS_STREAM = f"tests.stream.{uuid4()}"
    assert stream.declare() == ""
    yield name
    channel.queue_delete(name)


@pytest.fixture
def queue(channel: Any) -> Iterator[Callable[..., str]]:
    """Declare a queue of a subscriber."""
    names = []

    def declare(**arguments: Any) -> str:
        names.append(f"tests.subscriber.{uuid4()}")
        channel.queue_declare(names[-1], durable=True, auto_delete=False, arguments=arguments)
        return names[-1]

    yield declare
    for name in names:
        channel.queue_delete(name)


def read(start: stream.Start, *, number: int) -> list[stream.Kept]:
    """
    The events from this point on: at least so many, and what comes with them.

    A reader that attaches while the broker drops the segment it begins with is sent nothing: another one is.
    """
    for _ in range(12):
        found: list[stream.Kept] = []
        with stream.Reader(start) as reader:
            while len(found) < number and (kept := reader.read(wait=10)):
                found += kept
        if len(found) >= number:
            return found
    pytest.fail(f"{len(found)} events from {start} on, not {number}")


def replay(*arguments: str) -> str:
    out = StringIO()
    call_command("events", "replay", *arguments, stdout=out)
    return out.getvalue()


class TestALateSubscriber:
    def test_reads_from_the_beginning_and_from_an_offset(self, name: str) -> None:
        told = [event(f"o-{n}") for n in range(250)]
        tell(*told)
        for _ in range(2):  # reading takes nothing away
            found = read("first", number=250)
            assert [one.event["id"] for one in found] == [one.id for one in told]
        assert [one.offset for one in found] == list(range(250))
        assert found[7].event == told[7].as_dict()
        assert [one.event["id"] for one in read(240, number=10)] == [one.id for one in told[240:]]

    def test_reads_from_the_time_at_which_events_arrived(self, name: str) -> None:
        tell(event("early"))
        second = int(time.time()) + 1
        while int(time.time()) <= second:  # the broker takes whole seconds
            time.sleep(0.05)
        tell(event("late"))
        start = datetime.fromtimestamp(second, UTC)
        assert [one.event["subject"] for one in read(start, number=1)] == ["late"]
        assert len(read(start - timedelta(days=1), number=2)) == 2

    def test_hears_new_events_too(self, name: str) -> None:
        tell(event("old"))
        with stream.Reader("next") as reader:
            assert reader.read(wait=0.1) == []
            tell(event("new"))
            assert [one.event["subject"] for one in reader.read(wait=60)] == ["new"]


class TestRetention:
    @pytest.mark.usefixtures("small_segments", "name")
    def test_drops_the_oldest_events_a_segment_at_a_time(self) -> None:
        told = 0
        while (first := read("first", number=1)[0].offset if told else 0) == 0:
            assert told < 10_000
            for _ in range(10):  # what is sent at once is in one segment, and RabbitMQ 4 may drop a larger one at once
                tell(*(event(f"o-{n}") for n in range(10)))
            told += 100
        assert 0 < first < told
        assert read(0, number=1)[0].offset >= first, "an offset that is gone means the oldest event"

    def test_of_a_stream_that_exists_stays_and_is_told(self, name: str, settings: Any) -> None:
        settings.EVENTS_STREAM_MAX_AGE = "1D"
        assert re.search("keeps what it was declared with.*x-max-age", stream.declare())
        tell(event("o-1"))
        assert len(read("first", number=1)) == 1


class TestABrokerWithoutStreams:
    @pytest.mark.parametrize("arguments", [{}, {"x-queue-type": "quorum"}])
    def test_is_told_and_all_else_is_declared(
        self, channel: Any, settings: Any, caplog: Any, arguments: dict[str, Any]
    ) -> None:
        """Its answer is the same if the name is taken by a queue of another type."""
        settings.EVENTS_STREAM = f"tests.stream.{uuid4()}"
        channel.queue_declare(settings.EVENTS_STREAM, durable=True, auto_delete=False, arguments=arguments)
        channel.queue_delete("events.unheard")
        broker.conf.call("BROKER_TOPOLOGY")
        assert f"{settings.EVENTS_STREAM}: the broker keeps no stream of events" in caplog.text
        channel.queue_declare("events.unheard", passive=True)
        with pytest.raises(CommandError, match="is a queue and not a stream"):
            call_command("events", "tail", "--from-offset", "0")
        channel.queue_delete(settings.EVENTS_STREAM)

    def test_that_closes_the_connection_is_told_too(self, channel: Any, settings: Any) -> None:
        settings.EVENTS_STREAM, settings.EVENTS_STREAM_MAX_AGE = f"tests.stream.{uuid4()}", "nonsense"
        assert re.search("keeps no stream of events: .*INTERNAL_ERROR", stream.declare())


class TestACopy:
    @pytest.mark.slow
    def test_has_what_was_asked_for(self, name: str, queue: Any, take: Any) -> None:
        now, to = datetime.now(UTC), queue()
        days = {f"o-{n}": now - timedelta(days=n) for n in (4, 3, 2, 1)}
        tell(*(event(subject, at=at) for subject, at in days.items()), event("o-new", type="order.created"))

        def copied(*arguments: str) -> set[str]:
            replay("--to", to, *arguments)
            return {stream.Kept(0, "", message).event["subject"] for message in take(to)}

        assert copied() == {*days, "o-new"}
        since, until = (days[one].isoformat() for one in ("o-3", "o-1"))
        assert copied("--from", since, "--until", until) == {"o-3", "o-2"}
        assert copied("--type", "order.created") == {"o-new"}
        assert copied("--type", "*.paid", "--from", since) == {"o-3", "o-2", "o-1"}
        assert copied("--type", "order.#") == {*days, "o-new"}
        assert copied("--type", "paid") == set()
        assert copied("--from-offset", "3") == {"o-1", "o-new"}
        assert copied("--from-offset", "9") == set()

    @pytest.mark.slow
    def test_is_counted_and_says_where_to_go_on(self, name: str, queue: Any, take: Any) -> None:
        told = [event(f"o-{n}") for n in range(350)]
        tell(*told)
        to = queue()
        said = replay("--to", to)
        assert "Copied 350 of 350 events" in said
        assert [message.properties["message_id"] for message in take(to)] == [one.id for one in told]
        tell(event("o-350"))
        (offset,) = re.findall(r"--from-offset (\d+)", said)
        assert "Copied 1 of 1 events" in replay("--to", to, "--from-offset", offset)
        assert "Copied 0 of 0 events" in replay("--to", to, "--from-offset", "351")

    @pytest.mark.slow
    def test_of_a_slow_broker_is_no_empty_one(
        self, name: str, queue: Any, take: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tell(event("o-1"))
        with stream.Reader("next") as reader:
            while not reader.count():  # which the broker counts every few seconds
                time.sleep(0.1)
        monkeypatch.setattr(stream, "FIRST_ANSWER", 0.0)
        to = queue()
        assert "Copied 1 of 1 events" in replay("--to", to)
        assert "Copied 1 of 1 events" in replay("--to", to, "--from", "2026-01-01")

    def test_that_is_interrupted_goes_on_without_a_gap(
        self, name: str, queue: Any, take: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = [event(f"o-{n}") for n in range(350)]
        tell(*told)
        to, publish, batches = queue(), stream._publish, iter(range(9))

        def interrupted(*arguments: Any) -> None:
            publish(*arguments)
            if next(batches) == 1:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(stream, "_publish", interrupted)
            with pytest.raises(CommandError, match=r"Stopped\. Copied") as stopped:
                replay("--to", to)
        (offset,) = re.findall(r"--from-offset (\d+)", str(stopped.value))
        assert 0 < int(offset) < 350
        replay("--to", to, "--from-offset", offset)
        ids = [message.properties["message_id"] for message in take(to)]
        assert set(ids) == {one.id for one in told}
        assert len(ids) > 350, "the batch that was not confirmed to us comes twice"

    def test_to_a_queue_that_is_full_says_how_far_it_is(self, name: str, queue: Any, take: Any) -> None:
        tell(*(event(f"o-{n}") for n in range(250)))
        to = queue(**{"x-max-length": 150, "x-overflow": "reject-publish"})
        with pytest.raises(CommandError, match=r"did not accept it\nCopied \d+ of") as full:
            replay("--to", to)
        (offset,) = re.findall(r"--from-offset (\d+)", str(full.value))
        assert 100 <= int(offset) <= 150
        assert len(take(to)) == 150

    @pytest.mark.parametrize(
        ("arguments", "why"),
        [
            (["--to", "nowhere"], "There is no queue nowhere"),
            (["--to", "payments"], "payments is a queue of this system"),
            (["--to", "orders.dlq"], "orders.dlq is a queue of this system"),
            (["--to", "events.stream"], "events.stream is a queue of this system"),
            (["--to", "events.unheard"], "events.unheard is a queue of this system"),
            (["--to", "q", "--from", "2026-02-30"], "no date and no time"),
            (["--to", "q", "--from", "yesterday"], "no date and no time"),
            (["--to", "q", "--until", "2026-11-01T10:00"], "has no time zone"),
            (["--to", "q", "--from-offset", "-1"], "is no offset"),
        ],
    )
    def test_that_cannot_be_made_says_why(self, channel: Any, arguments: list[str], why: str) -> None:
        with pytest.raises(CommandError, match=why):
            replay(*arguments)

    def test_without_a_stream_or_a_broker_says_so(self, channel: Any, queue: Any, settings: Any) -> None:
        to = queue()
        settings.EVENTS_STREAM = "tests.no.stream"
        with pytest.raises(CommandError, match=r"There is no stream tests\.no\.stream: run"):
            replay("--to", to)
        settings.AMQP_URL = "amqp://nobody:nothing@127.0.0.1:1//"
        with pytest.raises(CommandError, match="The broker cannot be reached"):
            replay("--to", to)


def test_tail_prints_what_was_asked_for_until_ctrl_c(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    created, paid = event("o-1", type="order.created"), event("o-1", 2)
    tell(created, paid)
    read = stream.Reader.read
    seen: list[stream.Kept] = []

    def until_both(reader: stream.Reader, *, wait: float) -> list[stream.Kept]:
        if len(seen) == 2:
            raise KeyboardInterrupt
        kept = read(reader, wait=wait)
        seen.extend(kept)
        return kept

    monkeypatch.setattr(stream.Reader, "read", until_both)
    out = StringIO()
    call_command("events", "tail", "--from", "2026-01-01", "--type", "order.paid", stdout=out)
    assert out.getvalue() == f"1 order.paid {paid.time} o-1 0000000002 {paid.id}\n"


@pytest.mark.processes
class TestTheConsumerInTheDocumentation:
    @pytest.fixture
    def lines(self, tmp_path: Path) -> Callable[..., list[str]]:
        """Run the text until it has printed the last of these, and return what it has printed."""
        (text,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)

        def run(source: str, *, until: str) -> list[str]:
            printed: list[str] = []
            environment = {"AMQP_URL": django_settings.AMQP_URL, "STREAM": source, "PATH": os.environ["PATH"]}
            with subprocess.Popen(
                [sys.executable, "-c", text], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    printed.append(line.strip())
                    if until in line:
                        break
                process.kill()
            return printed

        return run

    def test_takes_no_copy_and_nothing_old_and_goes_on_where_it_stopped(
        self, name: str, queue: Any, lines: Callable[..., list[str]]
    ) -> None:
        one, two, three = (event("o-1", version) for version in (1, 2, 3))
        tell(one, one, three, two, three, event("o-2", 9), event("o-2", 10), event("end"))
        to = queue(**{"x-queue-type": "stream"})
        for _ in range(2):
            assert "Copied 8 of 8" in replay("--to", to)
        tell_to = amqp.Message(event("really-the-end").encode(), message_id="x")
        with broker.connect() as connection:
            connection.channel().basic_publish_confirm(tell_to, exchange="", routing_key=to)
        printed = [
            f"order.paid {subject} {version:010}"
            for subject, version in (("o-1", 1), ("o-1", 3), ("o-2", 9), ("o-2", 10), ("end", 1))
        ]
        assert lines(to, until="really-the-end") == [*printed, "order.paid really-the-end 0000000001"]
        with broker.connect() as connection:
            connection.channel().basic_publish_confirm(
                amqp.Message(event("later").encode(), message_id="y"), exchange="", routing_key=to
            )
        again = lines(to, until="later")
        assert again[-1] == "order.paid later 0000000001"
        assert set(again[:-1]) <= {"order.paid really-the-end 0000000001"}  # it was killed while it noted its place
