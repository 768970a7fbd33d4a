"""What each worker does at this moment: it is asked, as `celery inspect` asks, and says so itself."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from amqp.exceptions import AccessRefused, NotFound
from django.conf import settings
from django.db import Error
from kombu.exceptions import OperationalError

from orders.models import Order
from outbox import broker

from ..celery import WORK, app, is_work_queue

WAIT = 2.0  # seconds for all workers to answer
LONG = 60.0  # seconds after which handling a message needs a person


@dataclass
class Task:
    """A message that a worker handles, or one of its periodic tasks."""

    type: str
    order_id: str  # empty if it is about none
    others: int  # messages that are handled together with it
    order_number: int | None
    seconds: float  # for how long
    pid: int | None  # the process of the worker that handles it


@dataclass
class Worker:
    name: str
    queues: list[str]
    reserved: int = 0  # messages that it has fetched and not begun
    tasks: list[Task] = field(default_factory=list)


@dataclass
class Workers:
    workers: list[Worker]
    troubles: list[str]


class CannotAsk(Exception):
    """The workers cannot be asked; says why."""


def look(*, wait: float = WAIT) -> Workers:
    """
    Ask all workers.

    :raises CannotAsk: if the broker does not take the question
    """
    try:
        queues = _ask("active_queues", wait=wait)
        # Whoever has answered once answers at once.
        active, reserved = (_ask(what, wait=wait, of=queues) for what in ("active", "reserved"))
    except AccessRefused:
        raise CannotAsk("This user of the broker may not ask workers: the back office's may.") from None
    except NotFound as error:
        raise CannotAsk(f"{error.reply_text}: manage.py declare_topology.") from None
    except (OperationalError, *broker.LOST) as error:
        raise CannotAsk(f"The broker cannot be reached: {error}") from None
    workers = [
        Worker(
            name,
            queues=[queue["name"] for queue in queues[name] if is_work_queue(queue["name"])],
            reserved=len(reserved.get(name, ())),
            tasks=[_task(request) for request in active.get(name, ())],
        )
        for name in sorted(queues)
    ]
    _add_numbers([task for worker in workers for task in worker.tasks])
    return Workers(workers, list(_troubles(workers)))


def _ask(what: str, *, wait: float, of: Mapping[str, Any] | None = None) -> dict[str, Any]:
    if of is not None and not of:
        return {}
    return app.control.inspect(list(of) if of else None, timeout=wait)._request(what) or {}


def _task(request: dict[str, Any]) -> Task:
    began = request["time_start"]
    return Task(
        type=request["name"],
        order_id=_subject(request),
        others=_others(request),
        order_number=None,
        seconds=round(max(time.time() - began, 0), 1) if began else 0,
        pid=request["worker_pid"],
    )


def _subject(request: dict[str, Any]) -> str:
    """What the message is about, from what Celery shows as its arguments: see `outbox.broker.encode`."""
    return _about(request).partition(" +")[0]


def _others(request: dict[str, Any]) -> int:
    """How many messages are handled together with it."""
    number = _about(request).partition(" +")[2]
    return int(number) if number.isdecimal() else 0


def _about(request: dict[str, Any]) -> str:
    shown, prefix = str(request["args"]), f"({request['name']} "
    return shown.removeprefix(prefix).removesuffix(")") if shown.startswith(prefix) else ""


def _add_numbers(tasks: list[Task]) -> None:
    """Add the numbers of the orders, if the database of orders is here and answers."""
    if "orders" not in settings.DATABASES_HERE or not tasks:
        return
    try:
        numbers = dict(Order.objects.filter(pk__in=[task.order_id for task in tasks]).values_list("pk", "number"))
    except Error:
        return
    for task in tasks:
        task.order_number = numbers.get(task.order_id)


def _troubles(workers: list[Worker]) -> Iterator[str]:
    answered = {queue for worker in workers for queue in worker.queues}
    for queue in WORK:
        if queue not in answered:
            yield f"no worker of the queue {queue} has answered: it is not running, or it hangs"
    for worker in workers:
        for task in worker.tasks:
            if task.seconds > LONG:
                order = f": manage.py order {task.order_id}" if task.order_id else ""
                yield f"{worker.name} has been handling {task.type} for {task.seconds:.0f} s{order}"
