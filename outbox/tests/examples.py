"""Messages of the tests, their handlers, and a table in which every effect leaves a row."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

from django.db import connections

from outbox import context
from outbox.arrivals import Arrived
from outbox.consumers import consumes
from outbox.message import Message
from outbox.services import model_of

SERVICE = "payments"  # whose outbox and database the tests use


class Count(Message, name="tests.count", to=SERVICE):
    """Leaves a row in `counted`, then behaves as `then` says."""

    order_id: str = ""
    then: str = ""
    padding: str = ""


class CountTogether(Message, name="tests.count_together", to=SERVICE, batched=True):
    """A count that travels, and is handled, with others."""

    order_id: str = ""
    then: str = ""
    padding: str = ""


class Echo(Message, name="tests.echo", to=SERVICE):
    """The reply to a `Count` with `then="echo"`."""

    order_id: str = ""


class CountAfter(Message, name="tests.count_after", to=SERVICE):
    """A count whose handler needs the answer of a foreign service."""

    order_id: str = ""


def _fail(message: Count) -> None:
    raise RuntimeError(f"told to fail: {message.order_id}")


def _kill(message: Count) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


BEHAVIORS: dict[str, Callable[[Count], Any]] = {
    "": lambda message: None,
    "echo": lambda message: model_of(SERVICE, "Outgoing").post(Echo(order_id=message.order_id)),
    "fail": _fail,
    "kill": _kill,
    "sleep": lambda message: time.sleep(0.3),
    "nap": lambda message: time.sleep(0.05),
}
CALLS: list[str] = []  # of the foreign service


def leave_a_row() -> None:
    with connections[SERVICE].cursor() as cursor:
        cursor.execute("INSERT INTO counted (message_id) VALUES (%s)", [context.current().causation_id])


@consumes(Count)
def count(message: Count) -> None:
    leave_a_row()
    BEHAVIORS[message.then](message)


def count_all(arrived: Sequence[Arrived]) -> None:
    for one in arrived:
        with one.acting() as message:
            count(message)


consumes(CountTogether, together=count_all)(count)


@consumes(Echo)
def echo(message: Echo) -> None:
    leave_a_row()


def call_foreign_service(message: CountAfter) -> str:
    CALLS.append(message.order_id)
    return "yes"


@consumes(CountAfter, first=call_foreign_service)
def count_after(message: CountAfter, answer: str) -> None:
    leave_a_row()
