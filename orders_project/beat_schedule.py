"""
The periodic tasks of the services, and when beat sends each of them.

# Note [Not all at the same time]: tasks of one interval would begin together, and an order that comes then would wait
for all of them. So each has a time of its own within its interval. It is a time of the clock, which outlives a restart
of beat and a time without a broker, so no file has to say when a task was sent last.
"""

import time
from datetime import datetime, timedelta
from typing import Any

from celery.beat import Scheduler as CeleryScheduler
from celery.schedules import schedstate, schedule
from django.conf import settings

Task = tuple[float, str, str, tuple[str, ...]]

GOLDEN = 0.618034  # multiples of the golden section, taken modulo 1, are far from each other, however many there are


class Staggered(schedule):
    """Every so many seconds, `offset` seconds after the clock shows a multiple of them."""

    def __init__(self, seconds: float, offset: float) -> None:
        super().__init__(timedelta(seconds=seconds))
        self.offset = offset

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return how long it takes until the first such time after the last run; less than nothing if it is over."""
        last = last_run_at.timestamp()
        due = last + self.seconds - (last - self.offset) % self.seconds
        return timedelta(seconds=due - time.time())

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Return whether the task is due, and in how many seconds to ask again."""
        if (remaining := self.remaining_estimate(last_run_at).total_seconds()) > 0:
            return schedstate(is_due=False, next=remaining)
        return schedstate(is_due=True, next=self.remaining_estimate(self.now()).total_seconds())


class Scheduler(CeleryScheduler):
    """Goes on where the clock was set back: Celery's waits until it shows the time that it had shown."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._latest = time.time()
        super().__init__(*arguments, **options)

    def tick(self, *arguments: Any, **options: Any) -> float:
        """Send what is due; return for how many seconds nothing will be."""
        now = time.time()
        if now < self._latest:
            for entry in self.schedule.values():
                entry.last_run_at = entry.default_now()
            self._heap = None  # of the times at which to look again; it is made anew
        self._latest = now
        seconds: float = super().tick(*arguments, **options)
        return seconds


def tasks() -> list[Task]:
    """Return the tasks: how many seconds lie between two runs, the name, the service that runs it and its arguments."""
    found: list[Task] = [
        *((1, "outbox.tick", service, (service,)) for service in settings.SERVICES),
        *((5, "outbox.collect", service, (service,)) for service in settings.SERVICES),
        (5, "payments.janitor", "payments", ()),
        *((10, "outbox.purge", service, (service,)) for service in settings.SERVICES),
        (10, "processing.expire_holds", "processing", ()),
        (10, "outbox.forget_answers", "orders", ("orders",)),
        (10, "outbox.forget_answers", "payments", ("payments",)),
    ]
    if not settings.UPGRADING:  # workers of the release before do not know these
        found.append((600, "payments.reconcile", "payments", ()))
        if settings.ARCHIVE_ORDERS_AFTER:
            found.append((300, "orders.archive", "orders", ()))
    return found


def entries() -> dict[str, dict[str, Any]]:
    """Return the schedule of beat."""
    return {
        f"{task} {service}": {
            "task": task,
            "schedule": Staggered(seconds, offset=seconds * (number * GOLDEN % 1)),
            "args": arguments,
            "options": {"queue": f"{service}.beat"},
        }
        for number, (seconds, task, service, arguments) in enumerate(tasks())
    }
