"""
`celery inspect` without remote control: workers say what they handle, and take no orders.

# Note [Nobody declares a queue]: Celery gives every worker and everybody who asks a queue of its own. A user of the
broker who may declare and bind queues could send anything through them to anybody, whatever routing keys it may use.
So questions and answers go through two streams, which the deployment declares. Reading takes nothing out of a stream:
every worker reads each question, and whoever has asked finds the answers to it by their ticket.
"""

import json
import logging
from time import monotonic
from typing import Any

from celery.app import control
from kombu import Consumer, Producer, pidbox
from kombu.utils.uuid import uuid

from .celery import ANSWERS, ANSWERS_STREAM, QUESTIONS, QUESTIONS_STREAM

logger = logging.getLogger(__name__)

# What a worker answers. Left out is what changes a worker (every `control` command, and `hello`, which takes ids of
# tasks to be skipped), what tells of its settings (`conf`, `report`) or takes arguments, and what is never in use here.
ANSWERED = frozenset({"ping", "active", "reserved", "active_queues", "registered", "stats"})
REFUSAL = "{} is refused: workers answer {}, and do nothing that they are told"
ANSWER_TIMEOUT = 1.0  # seconds in which the broker must take an answer


class Refused(Exception):
    """Workers take no such command."""

    def __init__(self, command: object) -> None:
        super().__init__(REFUSAL.format(command, ", ".join(sorted(ANSWERED))))


class Node(pidbox.Node):
    """The end of a worker: it reads questions, and sends each answer to the stream of answers and nowhere else."""

    def Consumer(self, channel: Any = None, no_ack: Any = True, accept: Any = None, **options: Any) -> Consumer:  # noqa: N802
        (answer,) = options["callbacks"]

        def take(message: Any) -> None:
            message.ack()
            if question := _question(message.body):
                answer(question, message)

        return Consumer(channel or self.channel, [QUESTIONS_STREAM], on_message=take, prefetch_count=1)

    def handle(self, method: str, arguments: dict[str, Any] | None = None) -> Any:
        """Return the answer to a question; what else it says does not get here."""
        if method not in ANSWERED:
            logger.warning("The command %r is refused.", method)
            return {"error": str(Refused(method))}
        return super().handle(method)

    def reply(self, data: Any, exchange: str, routing_key: str, ticket: str, **options: Any) -> None:
        try:
            Producer(self.channel, auto_declare=False).publish(
                data,
                exchange=ANSWERS.name,
                headers={"ticket": ticket},
                delivery_mode="transient",
                serializer="json",
                confirm_timeout=ANSWER_TIMEOUT,
            )
        except TimeoutError:
            logger.warning("The broker has not taken an answer to `celery inspect`.")


def _question(body: Any) -> dict[str, Any]:
    """What is asked, of whom, and the ticket of the answer: for Celery to dispatch; nothing if it is no question."""
    try:
        said = json.loads(body)
        return {
            "method": str(said["method"]),
            "destination": [str(name) for name in said["destination"] or ()],
            "ticket": str(said["ticket"]),
            "reply_to": {"exchange": ANSWERS.name, "routing_key": ""},
        }
    except (ValueError, LookupError, TypeError, RecursionError):
        logger.warning("A question to workers cannot be read.")
        return {}


class Mailbox(pidbox.Mailbox):
    """The end of whoever asks."""

    node_cls = Node

    def _broadcast(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        destination: list[str] | None = None,
        reply: bool = False,
        timeout: float | None = 1,
        limit: int | None = None,
        callback: Any = None,
        channel: Any = None,
        serializer: str | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> list[Any]:
        """
        Ask the workers, and return what they answer in this time.

        :raises Refused: if they do not answer that
        """
        if command not in ANSWERED:
            raise Refused(command)
        connection, ticket, limit = self.connection, uuid(), limit or len(destination or ())
        assert connection is not None, "Celery binds it before it asks"
        answers: list[Any] = []

        def take(answer: Any, message: Any) -> None:
            message.ack()
            if message.headers.get("ticket") == ticket:
                answers.append(answer)
                if callback:
                    callback(answer)

        question = {"method": command, "arguments": arguments, "destination": destination, "ticket": ticket}
        with (
            connection.channel() as own,
            Consumer(own, [ANSWERS_STREAM], callbacks=[take], accept=["json"], prefetch_count=100),
        ):
            Producer(own, auto_declare=False).publish(
                question, exchange=QUESTIONS.name, serializer="json", delivery_mode="transient"
            )
            until = monotonic() + (timeout or 1)
            while not (limit and len(answers) >= limit) and (left := until - monotonic()) > 0:
                try:
                    connection.drain_events(timeout=left)
                except TimeoutError:
                    break
        return answers


class Control(control.Control):
    """Celery's `app.control`, which can do no more than ask."""

    Mailbox = Mailbox
