"""Messages made for the tests, their consumers, and a table in which every effect leaves a row."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from django.db import connections

from outbox import context
from outbox.consumers import consumes, model_of
from outbox.message import Message

SERVICE = "payments"  # whose mailbox and database the tests use


class Count(Message, name="tests.count", to=SERVICE):
    """Leave a row in `counted`, then behave as told."""

    order_id: str = ""
    then: str = ""
    padding: str = ""


class Echo(Message, name="tests.echo", to=SERVICE):
    """What `Count` answers if it is told to echo."""

    order_id: str = ""


class CountAfter(Message, name="tests.count_after", to=SERVICE):
    """A count that asks a foreign service first."""

    order_id: str = ""


def _fail(message: Count) -> None:
    raise RuntimeError(f"told to fail: {message.order_id}")


def _kill(message: Count) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


BEHAVIOURS: dict[str, Callable[[Count], Any]] = {
    "": lambda message: None,
    "echo": lambda message: model_of(SERVICE, "Outgoing").post(Echo(order_id=message.order_id)),
    "fail": _fail,
    "kill": _kill,
    "sleep": lambda message: time.sleep(0.3),
}
ASKED: list[str] = []  # what the foreign service was asked


def leave_a_row() -> None:
    with connections[SERVICE].cursor() as cursor:
        cursor.execute("INSERT INTO counted (message_id) VALUES (%s)", [context.current().causation_id])


def count(message: Count) -> None:
    leave_a_row()
    BEHAVIOURS[message.then](message)


def echo(message: Echo) -> None:
    leave_a_row()


def ask(message: CountAfter) -> str:
    ASKED.append(message.order_id)
    return "yes"


def count_after(message: CountAfter, answer: str) -> None:
    leave_a_row()


# They act for a service, so they say that they live there.
for _handler in (count, echo, count_after):
    _handler.__module__ = f"{SERVICE}.tests"
consumes(Count)(count)
consumes(Echo)(echo)
consumes(CountAfter, first=ask)(count_after)
