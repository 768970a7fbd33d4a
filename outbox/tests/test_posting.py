"""What a service posts leaves with its transaction, or not at all."""

import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.test import override_settings
from django.utils import timezone

from outbox import context
from outbox.checks import ensure_services_keep_together
from outbox.envelope import MAX_LENGTHS
from outbox.errors import PostedOutsideTransaction, TooLarge
from outbox.ids import floor7, time7, uuid7
from outbox.message import EVENTS, MAX_BYTES, Message
from outbox.models import OutgoingMessage
from outbox.notifications import Listener, WakeUp
from outbox.preview import MESSAGE_COLUMNS
from outbox.services import model_of
from outbox.tests.examples import SERVICE, Count, CountTogether, Echo

Outgoing = model_of(SERVICE, "Outgoing")
SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.django_db(transaction=True)
class TestPostingOutside:
    def test_any_transaction_is_an_error(self) -> None:
        with pytest.raises(PostedOutsideTransaction, match="using='payments'"):
            Outgoing.post(Count())
        assert not Outgoing.objects.exists()

    def test_another_services_transaction_is_an_error(self) -> None:
        with transaction.atomic(using="orders"), pytest.raises(PostedOutsideTransaction):
            Outgoing.post(Count())
        assert not Outgoing.objects.exists()

    def test_any_service_is_an_error(self) -> None:
        with transaction.atomic(using=SERVICE), pytest.raises(LookupError):
            OutgoingMessage.post(Count())

    def test_what_is_rolled_back_was_never_posted(self) -> None:
        with transaction.atomic(using=SERVICE):
            Outgoing.post(Count())
            transaction.set_rollback(True, using=SERVICE)
        assert not Outgoing.objects.exists()


@pytest.mark.django_db(transaction=True)
class TestWakingTheRelay:
    @pytest.fixture
    def notifications(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
        """How many NOTIFYs were sent since the last question."""
        sent: list[str] = []

        def watch(execute: Any, sql: str, *arguments: Any) -> Any:
            sent.extend([sql] * sql.startswith("NOTIFY"))
            return execute(sql, *arguments)

        def count() -> int:
            number = len(sent)
            sent.clear()
            return number

        with connections[SERVICE].execute_wrapper(watch):
            yield count

    def test_names_the_messages_to_services_that_a_handler_sends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Told(Message, name="tests.told_by_handler", to=EVENTS): ...

        monkeypatch.setattr(WakeUp, "_next", WeakKeyDictionary())  # without what was rolled back earlier
        handled = context.Context("c-1", causation_id=str(uuid7()))
        with Listener(SERVICE) as listener:
            listener.wait(0)  # from now on
            with transaction.atomic(using=SERVICE):
                Outgoing.post(Count())
            assert listener.wait(60) == set()
            with context.acting(handled), transaction.atomic(using=SERVICE):
                Outgoing.post(Echo(), Told(), Count())
                Outgoing.post(CountTogether(), due_at=timezone.now() + timedelta(minutes=1))
            assert listener.wait(60) == {"tests.count", "tests.echo"}
            with context.acting(handled), transaction.atomic(using=SERVICE):
                Outgoing.post(Told())
            assert listener.wait(60) == set()
            assert listener.wait(0) is None

    def test_is_done_once_a_transaction(self, notifications: Callable[[], int]) -> None:
        for _ in range(2):
            with transaction.atomic(using=SERVICE):
                Outgoing.post(Count())
                with transaction.atomic(using=SERVICE):
                    Outgoing.post(Count(), Count())
                assert notifications() == 0
            assert notifications() == 1

    def test_is_not_done_for_what_was_rolled_back(self, notifications: Callable[[], int]) -> None:
        with transaction.atomic(using=SERVICE):
            Outgoing.post(Count())
            transaction.set_rollback(True, using=SERVICE)
        with transaction.atomic(using=SERVICE):
            pass
        assert notifications() == 0

    def test_is_done_for_what_is_posted_after_a_rollback(self, notifications: Callable[[], int]) -> None:
        with transaction.atomic(using=SERVICE):
            with transaction.atomic(using=SERVICE):
                Outgoing.post(Count())
                transaction.set_rollback(True, using=SERVICE)
            Outgoing.post(Count())
        assert notifications() == 1


@pytest.mark.django_db
class TestAPostedMessage:
    @pytest.mark.parametrize(
        ("trace", "withholds", "kept"),
        [
            (SAMPLED, False, SAMPLED),
            (context.unsampled_trace("c-1"), False, ""),
            (context.unsampled_trace("c-1"), True, context.unsampled_trace("c-1")),
        ],
    )
    def test_carries_what_its_context_says(self, trace: str, withholds: bool, kept: str, settings: Any) -> None:
        settings.OUTBOX_WITHHOLDS = withholds
        cause = context.Context(correlation_id="c-1", causation_id=str(uuid7()), traceparent=trace)
        before = timezone.now()
        with context.acting(cause), transaction.atomic(using=SERVICE):
            (row,) = Outgoing.post(Count(order_id="o-1", then="echo"))
        stored = Outgoing.objects.get(pk=row.pk)
        assert stored.traceparent == kept
        with transaction.atomic(using=SERVICE):
            again = Outgoing.post_again(stored.envelope(), attempt=1, due_at=before)
        assert (again.traceparent, again.envelope().traceparent) == (kept, trace)
        envelope = stored.envelope().as_dict()
        written = envelope.pop("time")
        assert before.isoformat() <= written <= timezone.now().isoformat()
        assert uuid.UUID(envelope["id"]).version == 7
        assert envelope == {
            "specversion": "1.0",
            "id": str(row.message_id),
            "source": "/payments",
            "type": "tests.count",
            "subject": "o-1",
            "datacontenttype": "application/json",
            "schemaversion": 1,
            "correlationid": "c-1",
            "causationid": cause.causation_id,
            "traceparent": trace,
            "attempt": 0,
            "data": {"order_id": "o-1", "then": "echo", "padding": ""},
        }

    def test_says_when_it_is_due(self) -> None:
        due_at = timezone.now() + timedelta(hours=1)
        with transaction.atomic(using=SERVICE):
            (row,) = Outgoing.post(Count(), due_at=due_at)
        assert row.envelope().sent_at == due_at

    @pytest.mark.parametrize("character", ["x", "й"])
    def test_is_measured_as_it_will_travel(self, character: str) -> None:
        each = len(character.encode("unicode_escape"))
        with transaction.atomic(using=SERVICE), pytest.raises(TooLarge):
            Outgoing.post(Count(padding=character * (MAX_BYTES // each)))
        with transaction.atomic(using=SERVICE):
            Outgoing.post(Count(padding=character * (MAX_BYTES // each - 100)))


def test_an_envelope_fits_into_the_table() -> None:
    names = {"correlationid": "correlation_id", "causationid": "causation_id"}
    columns: dict[str, Any] = {name: OutgoingMessage._meta.get_field(names.get(name, name)) for name in MAX_LENGTHS}
    assert {name: column.max_length for name, column in columns.items()} == MAX_LENGTHS
    assert set(MESSAGE_COLUMNS) <= {field.column for field in OutgoingMessage._meta.concrete_fields}


class TestIds:
    def test_sort_in_the_order_they_were_made(self) -> None:
        made = [uuid7() for _ in range(10_000)]
        assert made == sorted(made)
        assert len(set(made)) == 10_000

    def test_tell_their_time(self) -> None:
        moment = timezone.now()
        assert abs(time7(uuid7(moment)) - moment) < timedelta(milliseconds=1)

    def test_have_their_time_as_a_bound(self) -> None:
        before, made, after = timezone.now(), uuid7(), timezone.now() + timedelta(milliseconds=1)
        assert floor7(before) <= made < floor7(after)


class _Astray:
    """A router that keeps the ledger of payments with the orders."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return "orders" if model._meta.label == "payments.Entry" else None

    db_for_write = db_for_read


class TestTheSystemCheck:
    def test_passes(self) -> None:
        assert [found for found in run_checks() if found.id and found.id.startswith("outbox")] == []

    def test_finds_a_service_that_is_kept_in_two_databases(self) -> None:
        with override_settings(DATABASE_ROUTERS=[_Astray(), "orders_project.routers.Services"]):
            found = [found for found in run_checks() if found.id == "outbox.E001"]
        assert {str(one.msg) for one in found} == {
            "payments.Entry is written in 'orders', its service's outbox is in 'payments'.",
            "payments.Entry is read in 'orders', its service's outbox is in 'payments'.",
        }

    def test_keeps_such_a_process_from_starting(self) -> None:
        astray = override_settings(DATABASE_ROUTERS=[_Astray(), "orders_project.routers.Services"])
        with astray, pytest.raises(ImproperlyConfigured, match=r"payments\.Entry is written in 'orders'"):
            ensure_services_keep_together()
