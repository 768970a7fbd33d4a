"""Times are those of the database: a host whose clock is wrong delays nothing and hides nothing."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connections, transaction
from django.utils import timezone

from outbox import clock, ids
from outbox.relay import Relay
from outbox.services import model_of
from outbox.tests.examples import SERVICE, Count

Outgoing = model_of(SERVICE, "Outgoing")
NEAR = timedelta(seconds=60)  # on a busy machine
FIVE = timedelta(minutes=5)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("true_clock")]


@pytest.fixture(autouse=True)
def own_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "ahead", 0)


def there() -> datetime:
    """The time in the database."""
    with connections[SERVICE].cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
        return moment


class TestTheClock:
    @pytest.mark.parametrize("wrong_by", [FIVE, -FIVE, timedelta(0)])
    def test_is_the_database_s_and_never_ahead_of_it(self, wrong_by: timedelta) -> None:
        with time_machine.travel(timezone.now() + wrong_by):
            for _ in range(20):
                before, now, after = there(), clock.now(SERVICE), there()
                assert before - timedelta(seconds=clock._comparisons[SERVICE].seconds) <= now <= after
            assert abs(ids.time7(ids.uuid7()) - there()) < NEAR

    def test_asks_once_in_a_while(self, django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clock, "GOOD", 60.0)
        with django_assert_num_queries(1, using=SERVICE):
            for _ in range(100):
                clock.now(SERVICE)
        ticks = clock.ticks()
        monkeypatch.setattr(clock, "ticks", lambda: ticks + clock.VALID)
        with django_assert_num_queries(1, using=SERVICE):
            clock.now(SERVICE)

    def test_notices_that_the_host_s_clock_was_set(self) -> None:
        clock.now(SERVICE)
        with time_machine.travel(timezone.now() + FIVE):
            assert abs(clock.now(SERVICE) - there()) < NEAR

    def test_prefers_the_fastest_of_some_comparisons(self, monkeypatch: pytest.MonkeyPatch) -> None:
        took = iter([0.5, 0.02, 0.3])
        monkeypatch.setattr(clock, "_compare_once", lambda cursor: clock._Comparison(FIVE, 0, 0, next(took)))
        assert clock._compare(SERVICE).seconds == 0.02


@pytest.mark.parametrize("wrong_by", [FIVE, -FIVE])
def test_a_relay_whose_clock_is_wrong_sends_at_once_what_is_due_and_nothing_else(
    wrong_by: timedelta, channel: Any, take: Any
) -> None:
    with transaction.atomic(using=SERVICE):
        Outgoing.post(Count(), due_at=there() + timedelta(minutes=2))
        (due,) = Outgoing.post(Count())
    relay = Relay(SERVICE)
    with time_machine.travel(timezone.now() + wrong_by):
        relay.drain()
    relay.publisher.close()
    assert [message.properties["message_id"] for message in take()] == [str(due.message_id)]
