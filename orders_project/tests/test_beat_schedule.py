"""When beat sends the periodic tasks."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import time_machine
from celery.utils.imports import symbol_by_name
from django.conf import settings

from orders_project.beat_schedule import Staggered, entries
from orders_project.celery import app

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
Scheduler: Any = symbol_by_name(app.conf.beat_scheduler)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def test_sends_what_workers_take_and_nothing_else() -> None:
    schedule = Scheduler(app).schedule  # ours, and what Celery adds of its own accord
    assert schedule.keys() == app.conf.beat_schedule.keys()
    assert {one.options["queue"] for one in schedule.values()} == {f"{service}.beat" for service in settings.SERVICES}


@pytest.mark.parametrize(
    ("last", "now", "is_due", "wait"),
    [
        (3, 3.5, False, 9.5),
        (3, 12.9, False, 0.1),
        (3, 13, True, 10),
        (3.2, 13.2, True, 9.8),  # a late one is not followed by late ones
        (3, 57, True, 6),  # one for those that were missed
        (2.9, 2.95, False, 0.05),
    ],
)
def test_a_task_is_sent_at_its_own_time_of_the_clock(last: float, now: float, is_due: bool, wait: float) -> None:
    with time_machine.travel(at(now), tick=False):
        found = Staggered(10, offset=3).is_due(at(last))
    assert (found.is_due, found.next) == (is_due, pytest.approx(wait, abs=1e-3))


def test_a_restart_moves_no_task() -> None:
    with time_machine.travel(at(8), tick=False) as clock:
        scheduler = Scheduler(app)
        entry = scheduler.schedule["payments.reconcile payments"]
        wait = entry.is_due().next
        clock.move_to(at(8 + wait - 1))
        again = Scheduler(app)
        assert again.schedule["payments.reconcile payments"].is_due() == (False, pytest.approx(1, abs=1e-3))


@pytest.mark.parametrize("step", [-3600, -5, 3600])
@pytest.mark.parametrize("began", [0, 3600])  # with 3600, the clock was set back before the first look
def test_tasks_are_sent_as_often_after_the_clock_was_set(
    monkeypatch: pytest.MonkeyPatch, began: int, step: int
) -> None:
    sent: Counter[str] = Counter()
    with time_machine.travel(at(began), tick=False):
        scheduler = Scheduler(app)
    monkeypatch.setattr(scheduler, "apply_entry", lambda entry, producer: sent.update([entry.name]))
    monkeypatch.setattr(Scheduler, "producer", None)

    def run(*, since: float) -> Counter[str]:
        sent.clear()
        for look in range(200):
            clock.move_to(at(since + look / 10))
            while scheduler.tick() == 0:
                pass
        return sent.copy()

    with time_machine.travel(NOON, tick=False) as clock:
        before = run(since=0)
        after = run(since=20 + step)
    often = [name for name, entry in entries().items() if entry["schedule"].seconds <= 10]
    assert all(before[name] >= 2 and abs(after[name] - before[name]) <= 1 for name in often)


def test_no_two_tasks_are_sent_at_the_same_time() -> None:
    times = sorted(
        entry["schedule"].offset + run * entry["schedule"].seconds
        for entry in entries().values()
        if 5 <= entry["schedule"].seconds <= 10
        for run in range(int(10 / entry["schedule"].seconds))
    )
    assert len(times) >= 14
    assert min(later - earlier for earlier, later in pairwise([*times, times[0] + 10])) > 0.1
