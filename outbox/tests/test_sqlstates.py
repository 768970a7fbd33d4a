"""Every SQLSTATE is decided, by the database really raising it; a read-only database costs no message anything."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import psycopg
import pytest
from django.db import Error, connections, transaction
from psycopg import errors

from outbox import consumers, sessions
from outbox.message import Message
from outbox.relay import Relay
from outbox.services import model_of
from outbox.sqlstates import Verdict, is_unavailable, note, skip_while_unavailable, sqlstate_of, verdict_on
from outbox.tests.examples import CALLS, SERVICE, Count, CountAfter

Outgoing, DeadLetter = model_of(SERVICE, "Outgoing"), model_of(SERVICE, "DeadLetter")

# What psycopg knows, without those that are no errors.
KNOWN = sorted(
    state
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, psycopg.Error) and (state := getattr(kind, "sqlstate", None))
    if not state.startswith(("00", "01", "02"))
)
DECIDED = {
    Verdict.REPEAT: {"0A000", "40000", "40001", "40P01", "72000"},
    Verdict.WAIT: {
        *(state for state in KNOWN if state[:2] in ("08", "28", "3D", "53", "58")),
        *("25006", "25P03", "25P04", "40003", "55006", "55P03"),
        *("57000", "57P01", "57P02", "57P03", "57P04", "57P05"),
    },
    Verdict.RETRY: {"57014", "XX000", "XX001", "XX002"},
}


def raised(state: str) -> Error:
    """The error with which the database ends a statement that raises this SQLSTATE."""
    with pytest.raises(Error) as caught, transaction.atomic(using=SERVICE), connections[SERVICE].cursor() as cursor:
        cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '{state}'; END $$")
    assert sqlstate_of(caught.value) == state
    return caught.value


@pytest.mark.django_db
class TestTheTable:
    def test_decides_every_error_that_is_known(self) -> None:
        found: dict[Verdict, set[str]] = {verdict: set() for verdict in Verdict}
        for state in KNOWN:
            found[verdict_on(raised(state))].add(state)
        assert {verdict: found[verdict] for verdict in DECIDED} == DECIDED
        assert {state[:2] for state in found[Verdict.FAIL]} >= {"22", "23", "42", "P0"}

    @pytest.mark.parametrize(("state", "verdict"), [("53999", "wait"), ("57999", "wait"), ("42999", "fail")])
    def test_decides_by_the_class_what_is_not_known(self, state: str, verdict: str) -> None:
        assert verdict_on(raised(state)).value == verdict

    def test_waits_where_the_connection_ends_with_the_answer_to_a_commit(self) -> None:
        """As one that is terminated at that moment: psycopg gets two results for one command."""
        connection = connections[SERVICE]
        connection.ensure_connection()
        driver = connection.connection
        two_results = driver._exec_command(b"SELECT 1; SELECT 2")
        with pytest.raises(Error, match="received 2 results") as caught, connection.wrap_database_errors:
            driver.wait(two_results)
        assert sqlstate_of(caught.value) == ""
        assert verdict_on(caught.value) is verdict_on(caught.value.__cause__ or caught.value) is Verdict.WAIT

    def test_blames_the_work_for_what_is_no_error_of_the_database(self) -> None:
        assert verdict_on(ValueError()) is Verdict.FAIL
        assert not is_unavailable(ValueError())


@pytest.fixture
def handled(posted: Any, hand_over: Any, counted: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Have a message handled whose handler meets this SQLSTATE once; what became of it."""
    monkeypatch.setattr(consumers.time, "sleep", lambda seconds: None)

    def handle(state: str) -> tuple[int, list[int], int]:
        envelope, tries = posted(Count()), []
        consumer = consumers.CONSUMERS[envelope.type]

        def meets(message: Count) -> None:
            tries.append(1)
            if len(tries) == 1:
                with connections[SERVICE].cursor() as cursor:
                    cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION 'once' USING ERRCODE = '{state}'; END $$")
            consumer.handle(message)

        monkeypatch.setitem(consumers.CONSUMERS, envelope.type, consumers.Consumer(Count, meets, None))
        hand_over(envelope)
        return len(tries), [row.attempt for row in Outgoing.objects.all()], DeadLetter.objects.count()

    return handle


@pytest.mark.django_db
class TestAConsumer:
    @pytest.mark.parametrize("state", ["25006", "25P03", "53100", "55P03", "57P01", "58030"])
    def test_waits_and_spends_no_attempt(self, handled: Any, state: str) -> None:
        assert handled(state) == (2, [], 0)

    @pytest.mark.parametrize("state", ["57014", "XX001", "23505"])
    def test_spends_an_attempt_on_what_may_never_succeed(self, handled: Any, state: str) -> None:
        assert handled(state) == (1, [1], 0)


@pytest.fixture
def read_only() -> Iterator[Callable[[bool], None]]:
    """Make every new session of the service's database read-only, or none; the session of this thread is ended."""
    name = connections[SERVICE].settings_dict["NAME"]

    def switch(on: bool) -> None:
        with connections["default"].cursor() as cursor:  # another database: this one's sessions can't write
            cursor.execute(
                f'ALTER DATABASE "{name}" '
                + ("SET default_transaction_read_only = on" if on else "RESET default_transaction_read_only")
            )
        connections[SERVICE].close()

    yield switch
    switch(False)


def _notice(record: logging.LogRecord, refused: threading.Event) -> bool:
    if "SQLSTATE 25006" in record.getMessage():
        refused.set()
    return True


@pytest.mark.django_db(transaction=True, databases=["default", SERVICE])
class TestAReadOnlyDatabase:
    @pytest.mark.parametrize("message", [Count(), CountAfter(order_id="o-1")])
    def test_costs_a_message_no_attempt(
        self, message: Message, posted: Any, hand_over: Any, counted: Any, read_only: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        CALLS.clear()
        envelope, pauses = posted(message), []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                read_only(False)

        monkeypatch.setattr(consumers.time, "sleep", pause)
        read_only(True)
        hand_over(envelope)
        assert (counted(), len(pauses)) == ([envelope.id], 3)
        assert len(CALLS) == isinstance(message, CountAfter), "nobody is called again meanwhile"
        assert not Outgoing.objects.exists()
        assert not DeadLetter.objects.exists()

    def test_stops_a_relay_for_as_long_as_it_lasts(
        self, channel: Any, take: Any, read_only: Any, in_thread: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        with transaction.atomic(using=SERVICE):
            (row,) = Outgoing.post(Count())
        refused, stop = threading.Event(), threading.Event()
        caplog.set_level(logging.WARNING)
        caplog.handler.addFilter(lambda record: _notice(record, refused))
        read_only(True)
        thread = in_thread(Relay(SERVICE).run, stop)
        assert refused.wait(60)
        assert take() == []
        read_only(False)
        while not Outgoing.objects.exclude(published_at=None).exists():
            assert thread.is_alive()
            time.sleep(0.05)
        stop.set()
        thread.join()
        assert [message.properties["message_id"] for message in take()] == [str(row.message_id)]

    def test_makes_a_periodic_task_wait_for_its_next_tick(self, read_only: Any) -> None:
        ran = []

        @skip_while_unavailable
        def task() -> None:
            ran.append(1)
            with transaction.atomic(using=SERVICE):
                Outgoing.post(Count())

        read_only(True)
        task()
        read_only(False)
        task()
        assert (len(ran), Outgoing.objects.count()) == (2, 1)


@pytest.mark.django_db(transaction=True)
def test_where_one_session_is_lost_its_pool_drops_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings[SERVICE]["OPTIONS"], "pool", {"min_size": 0, "max_size": 4, "timeout": 60})
    monkeypatch.setitem(connections.settings[SERVICE], "CONN_MAX_AGE", 0)
    all_are_open, this = threading.Barrier(4), cast("Any", connections[SERVICE])

    def at_once(threads: ThreadPoolExecutor) -> list[int | None]:
        """The session that each of four requests has at the same time; None if it was lost."""

        def ask(_: int) -> int | None:
            all_are_open.wait(60)
            try:
                with connections[SERVICE].cursor() as cursor:
                    cursor.execute("SELECT pg_backend_pid()")
                    (session,) = cursor.fetchone()
            except Error:
                session = None
            all_are_open.wait(60)
            connections[SERVICE].close()
            return session

        return list(threads.map(ask, range(4)))

    def notice() -> bool:
        try:
            connections[SERVICE].cursor().execute("SELECT 1")
        except Error as error:
            note(error, where="a test")
            return True
        return False

    with ThreadPoolExecutor(4) as threads:
        try:
            lost = at_once(threads)
            assert len(set(lost)) == 4
            with sessions.connect(sessions.of_its_own(SERVICE)) as killer:
                killer.execute("SELECT pg_terminate_backend(pid, 60000) FROM unnest(%s::int[]) AS pid", [lost])
            assert threads.submit(notice).result()
            again = at_once(threads)
            assert None not in again
            assert not set(again) & set(lost)
        finally:
            this.close_pool()
