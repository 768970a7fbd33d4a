"""A message that the broker does not take is late, however often it was put off; one whose time has not come is not."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import transaction
from django.utils import timezone

from orders_project.audit import audit
from orders_project.observability import health
from outbox import due_rows, gauges, lost, relay
from outbox.attempts import backoff
from outbox.broker import Outcome
from outbox.relay import Relay
from outbox.services import model_of
from outbox.tests.examples import SERVICE, Count

Outgoing = model_of(SERVICE, "Outgoing")
NO_TIME = timedelta(0)

pytestmark = pytest.mark.django_db


class Declining:
    """A publisher to a broker that takes nothing, or does not answer."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers

    def publish(self, batch: Any) -> Outcome:
        every = range(len(batch))
        return Outcome(declined=dict.fromkeys(every, "nack")) if self.answers else Outcome(waiting={*every})

    def read_answers(self) -> None:
        pass


def posted(*, ago: timedelta = NO_TIME, due_in: timedelta = NO_TIME) -> Any:
    with time_machine.travel(timezone.now() - ago, tick=False), transaction.atomic(using=SERVICE):
        (row,) = Outgoing.post(Count(), due_at=timezone.now() + due_in)
    return row


def put_off(row: Any, *, answers: bool = True) -> Any:
    """Let a relay try to send a message from when it is due until now."""
    sender = Relay(SERVICE, publisher=Declining(answers=answers))  # type: ignore[arg-type]
    end = timezone.now()
    with time_machine.travel(row.due_at, tick=False) as at:
        sender.send_batch(now=timezone.now())
        while timezone.now() < end:
            at.shift(timedelta(seconds=1))
            sender.settle()
            row.refresh_from_db()
            if row.due_at <= timezone.now():
                sender.send_batch(now=timezone.now())
    row.refresh_from_db()
    return row


def late() -> tuple[int, float]:
    """How many messages the relay has not sent in time, and for how many seconds the oldest one has been due."""
    ((row,), *_) = (reading.take() for reading in gauges.readings_of(SERVICE))
    return row["outbox_service_pending"], float(row["outbox_oldest_seconds"])


def findings() -> set[str]:
    return {one.subject for one in audit(settle=NO_TIME).findings if one.check == "unsent"}


@pytest.mark.parametrize("answers", [True, False])
def test_what_the_broker_does_not_take_is_late(answers: bool) -> None:
    row = put_off(posted(ago=timedelta(minutes=10)), answers=answers)
    assert row.due_at > timezone.now() - timedelta(seconds=health.LATE)
    assert row.publish_attempts > due_rows.STEADY
    number, seconds = late()
    assert number == 1
    assert 400 < seconds < 900
    assert findings() == {str(row.message_id)}
    with pytest.raises(health.Unhealthy, match="s behind"):
        health._relay(SERVICE)


def test_what_was_put_off_a_few_times_is_not_late_yet() -> None:
    row = put_off(posted(ago=timedelta(seconds=10)))
    assert 0 < row.publish_attempts <= due_rows.STEADY
    assert late()[1] < health.LATE
    health._relay(SERVICE)
    assert findings() == set()


def test_what_is_scheduled_for_later_is_not_late() -> None:
    for later in (timedelta(seconds=20), timedelta(minutes=15)):
        posted(ago=timedelta(seconds=5), due_in=later)
    assert late() == (0, 0)
    assert findings() == set()


def test_a_timer_is_late_from_when_it_is_due() -> None:
    put_off(posted(ago=timedelta(days=6, minutes=2), due_in=timedelta(days=6)))
    number, seconds = late()
    assert number == 1
    assert 60 < seconds < 180


def test_what_a_consumer_tries_again_is_late_from_when_that_is_due() -> None:
    old = posted(ago=timedelta(days=2))
    with transaction.atomic(using=SERVICE):
        again = Outgoing.post_again(old.envelope(), attempt=3, due_at=timezone.now() + timedelta(seconds=10))
    old.delete()
    assert again.first_due_at < timezone.now() - timedelta(days=1)
    assert late() == (0, 0)
    again.due_at = timezone.now() - timedelta(minutes=2)
    again.save()
    put_off(again)
    number, seconds = late()
    assert number == 1
    assert 60 < seconds < 180


def test_what_is_sent_once_more_begins_anew() -> None:
    """As its broker has lost it, that had not taken it for long before."""
    row = put_off(posted(ago=timedelta(minutes=10)))
    Outgoing.objects.update(published_at=timezone.now())
    assert lost.send_again(SERVICE, [row.pk]) == 1
    number, seconds = late()
    assert number == 1
    assert seconds < health.LATE


def test_no_message_is_put_off_further_than_is_looked() -> None:
    assert max(relay.LEASE, backoff(100, spread=1)) <= due_rows.FURTHEST
    assert backoff(due_rows.STEADY, spread=0) == backoff(100, spread=0)
