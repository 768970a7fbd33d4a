"""
The topology of the broker: exchanges, queues and dead-lettering. The deployment declares it.

    messages          a topic exchange for the messages to services, by <queue>.<type>: the broker limits by it what the
                      user of a service may send
    <service>         a quorum queue for each service: its commands and the events that it handles
    <service>.1 …     more of them, if ORDERS_QUEUES is more than one: see outbox/partitions.py
    orders.webhooks   a queue of its own for calls to customers, so that a slow one delays no order
    <service>.dlq     messages that a service's queues gave up on, until they are stored in its DeadLetter table
    tasks             a topic exchange for the periodic tasks of beat
    <service>.beat    those of a service: they expire after a few seconds, so that they never pile up
    events            a topic exchange for the events of orders as CloudEvents; unrouted ones go to events.unheard
    events.stream     keeps all events for late subscribers: see outbox/stream.py
    questions         a fanout exchange with a stream, inspect.questions, that every worker reads: see celery_inspect.py
    answers           likewise for the answers, inspect.answers
"""

import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amqp.exceptions import NotFound
from celery import Celery
from celery.events.event import event_exchange
from celery.signals import celeryd_after_setup
from django.conf import settings
from kombu import Connection, Exchange, Queue

from outbox import partitions, stream
from outbox.broker import answering_first, binding

from . import beat_schedule

logger = logging.getLogger(__name__)
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orders_project.settings")

SERVICES = settings.SERVICES
ASIDE = ("orders.webhooks",)
WORK = (*(name for service in SERVICES for name in partitions.names(service, settings.ORDERS_QUEUES)), *ASIDE)

MESSAGES = Exchange(settings.OUTBOX_EXCHANGE, type="topic")
TASKS = Exchange("tasks", type="topic")
DEAD = Exchange("dead", type="direct")
UNROUTED = Exchange("events.unheard", type="fanout")
EVENTS = Exchange("events", type="topic", arguments={"alternate-exchange": UNROUTED.name})
WORKERS = Exchange("celeryev", type="topic")  # Celery's own events, for whoever watches workers
event_exchange.no_declare = True
# Not by Celery's names, by which workers of release 0.1.0 have declared other exchanges; nor by those of their streams,
# because a permission to write or to read is for an exchange and a queue of that name.
QUESTIONS = Exchange("questions", type="fanout")
ANSWERS = Exchange("answers", type="fanout")


class StandingQueue(Queue):
    """A queue that is declared if there is none: one that an earlier release declared keeps its arguments."""

    def queue_declare(self, nowait: bool = False, passive: bool = False, channel: Any = None) -> Any:
        channel = channel or self.channel
        try:
            with channel.connection.channel() as inquiry:  # a channel of its own, because a refusal closes it
                return super().queue_declare(passive=True, channel=inquiry)
        except NotFound:
            return super().queue_declare(nowait=nowait, passive=passive, channel=channel)


def is_work_queue(name: str) -> bool:
    """Return whether messages for a service wait in this queue, now or from a time when there were more of them."""
    service, _, rest = name.partition(".")
    return name in WORK or (service in SERVICES and rest.isdecimal())


def work_queue(name: str) -> Queue:
    """
    Return a queue of a service.

    # Note [No delivery limit]: how often a message may be begun and not ended is decided by whoever handles it (see
    # outbox/deliveries.py). A limit of the broker (an argument of older queues, a policy, or the default of RabbitMQ 4)
    # only ends a loop: what reaches it is collected and sent again.
    """
    return StandingQueue(
        name,
        MESSAGES,
        routing_key=binding(name),
        queue_arguments={
            "x-queue-type": "quorum",
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": DEAD.name,
            "x-dead-letter-routing-key": f"{name.partition('.')[0]}.dlq",
            "x-dead-letter-strategy": "at-least-once",
        },
    )


def dead_letter_queue(service: str) -> Queue:
    # RabbitMQ 4 would drop a message that is returned twenty times, as can happen while the database is lost.
    return Queue(
        f"{service}.dlq",
        DEAD,
        routing_key=f"{service}.dlq",
        queue_arguments={"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000},
    )


def beat_queue(service: str) -> Queue:
    return Queue(
        f"{service}.beat",
        TASKS,
        routing_key=f"{service}.beat",
        queue_arguments={"x-queue-type": "quorum", "x-message-ttl": 5_000, "x-max-length": 100},
    )


UNROUTED_QUEUE = StandingQueue(
    "events.unheard",
    UNROUTED,
    queue_arguments={"x-queue-type": "quorum", "x-max-length": 10_000, "x-message-ttl": 86_400_000},
)


def short_stream(name: str, exchange: Exchange) -> Queue:
    """Return a stream that keeps what was sent lately, for those who are reading it."""
    return StandingQueue(
        name,
        exchange,
        queue_arguments={
            "x-queue-type": "stream",
            "x-max-age": "1h",
            "x-max-length-bytes": 2_000_000,
            "x-stream-max-segment-size-bytes": 1_000_000,
        },
        consumer_arguments={"x-stream-offset": "next"},
    )


def inspection() -> list[Queue]:
    """Return the streams by which workers are asked what they do, and answer."""
    return [short_stream("inspect.questions", QUESTIONS), short_stream("inspect.answers", ANSWERS)]


def as_declared(queue: Any) -> Any:
    """Return a queue for Celery to use, and never to declare: its user of the broker may not."""
    queue.no_declare = True
    return queue


# Who waits for an answer of a node that stands still gives it up after the same time as who has nothing to ask.
TIMEOUTS = {"read_timeout": 2 * settings.AMQP_HEARTBEAT, "write_timeout": 2 * settings.AMQP_HEARTBEAT}
QUESTIONS_STREAM, ANSWERS_STREAM = map(as_declared, inspection())


app = Celery("orders_project", set_as_current=True, control="orders_project.celery_inspect:Control")
app.conf.update(
    broker_url=settings.AMQP_URL,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={"confirm_publish": True, "max_retries": 3, "interval_step": 0.2, **TIMEOUTS},
    broker_heartbeat=settings.AMQP_HEARTBEAT,
    task_default_queue="orders",
    task_default_exchange=TASKS.name,
    task_default_exchange_type=TASKS.type,
    task_default_queue_type="quorum",
    task_create_missing_queues=False,
    task_queues=[as_declared(queue) for queue in (*map(work_queue, WORK), *map(beat_queue, SERVICES))],
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    result_expires=None,  # or beat sends a task of Celery's own every night, which no worker here takes
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_acks_on_failure_or_timeout=False,
    # For a handler that hangs: longer than a handler waits for its database, shorter than the broker waits for an
    # acknowledgement.
    task_time_limit=25 * 60,
    # The broker counts for each queue, so that a worker of several would hold so many times as much.
    worker_prefetch_multiplier=max(8 // len(settings.WORKER_QUEUES), 1),
    worker_consumer="orders_project.celery_worker:CarefulConsumer",
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    timezone="UTC",
    beat_schedule=beat_schedule.entries(),
    beat_scheduler="orders_project.beat_schedule:Scheduler",  # keeps no file
)
app.conf["CELERY_DB_REUSE_MAX"] = 1000  # for Celery's Django fixup: a child keeps its connections for this many tasks
app.autodiscover_tasks()
app.autodiscover_tasks(["common"])
app.autodiscover_tasks(related_name="consumers")


@celeryd_after_setup.connect
def choose_queues(sender: str, instance: Any, **kwargs: Any) -> None:
    """Let a worker of a service consume its beat queue and WORKER_QUEUES of it, so that `-Q payments` is enough."""
    queues = instance.app.amqp.queues
    for service in [service for service in SERVICES if service in queues.consume_from]:
        names = partitions.names(service, settings.ORDERS_QUEUES)
        queues.deselect(names)
        for queue in (*(work_queue(names[number]) for number in settings.WORKER_QUEUES), beat_queue(service)):
            queues.select_add(as_declared(queue))


def left_over(connection: Any, service: str) -> list[str]:
    """Return the queues of a service that the broker has of a time when ORDERS_QUEUES was more than it is now."""
    found: list[str] = []
    for number in itertools.count(settings.ORDERS_QUEUES):
        name = partitions.name_of(service, number)
        try:
            with connection.channel() as inquiry:
                inquiry.queue_declare(name, passive=True)
        except NotFound:
            break
        found.append(name)
    return found


def consume_left_over(connection: Any, queues: Any) -> None:
    """
    Have a worker consume the queues that are left over, so that what waits in them is handled.

    # Note [Whose they are]: their numbers are counted through those of today, so that workers which together consume
    # all of today's queues consume all of these, too. They may be deleted at any time: each connection looks anew.
    """
    queues.deselect([name for name in queues.consume_from if is_work_queue(name) and name not in WORK])
    for service in [service for service in SERVICES if f"{service}.beat" in queues.consume_from]:
        for number, name in enumerate(left_over(connection, service), start=settings.ORDERS_QUEUES):
            if number % settings.ORDERS_QUEUES in settings.WORKER_QUEUES:
                queues.select_add(as_declared(work_queue(name)))


@contextmanager
def _channel(url: str) -> Iterator[Any]:
    """A channel of a connection of its own, which is dropped without a good-bye if the broker does not answer."""
    with Connection(url, connect_timeout=3, transport_options=TIMEOUTS) as connection:
        try:
            yield connection.channel()
        except OSError:
            connection.collect()
            raise


def declare_topology() -> list[str]:
    """
    Declare all exchanges and queues, unless they exist already; return the names of the queues.

    :raises OSError, AMQPError: if the broker can't be reached, does not answer, or does not let this user do so
    """
    url = answering_first(settings.AMQP_URL)
    queues = [*map(work_queue, WORK), *map(dead_letter_queue, SERVICES), *map(beat_queue, SERVICES), UNROUTED_QUEUE]
    with _channel(url) as channel:
        for exchange in (MESSAGES, TASKS, DEAD, UNROUTED, EVENTS, WORKERS, QUESTIONS, ANSWERS):
            exchange(channel).declare()
        for queue in queues:
            queue(channel).declare()
    names = [queue.name for queue in queues]
    if why := stream.declare():
        logger.warning("%s", why)
        return names
    streams = inspection()
    with _channel(url) as channel:
        for queue in streams:
            queue(channel).declare()
    return [*names, settings.EVENTS_STREAM, *(queue.name for queue in streams)]
