"""
The whole topology on one page: queues, routes, dead-lettering, the clock.

    <service>            a quorum queue a service: its commands and the events it hears
    orders.webhooks   the same for what waits for strangers, so that no order waits for them
    <service>.dlq        what a service's queues gave up on, until it is taken into the service's DeadLetter table
    <service>.beat       ticks of the clock: worth nothing a few seconds later, so they expire and never pile up
    events            topic exchange: order facts as CloudEvents, for anybody; what nobody hears goes to events.unheard
"""

import logging
import os
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.signals import celeryd_after_setup
from celery.worker.consumer import Consumer
from django.conf import settings
from kombu import Connection, Exchange, Queue

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orders_project.settings")

logger = logging.getLogger(__name__)

DELIVERY_LIMIT = 5
SERVICES = ("orders", "payments", "processing")
WORK = (*SERVICES, "orders.webhooks")

TASKS = Exchange("tasks", type="topic")
DEAD = Exchange("dead", type="direct")
UNHEARD = Exchange("events.unheard", type="fanout")
EVENTS = Exchange("events", type="topic", arguments={"alternate-exchange": UNHEARD.name})


def work_queue(name: str) -> Queue:
    return Queue(
        name,
        TASKS,
        routing_key=name,
        queue_arguments={
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": DEAD.name,
            "x-dead-letter-routing-key": f"{name.partition('.')[0]}.dlq",
            "x-dead-letter-strategy": "at-least-once",
        },
    )


def dead_letter_queue(service: str) -> Queue:
    # RabbitMQ 4 would drop a letter that comes back twenty times, which a long loss of the database could bring about.
    return Queue(
        f"{service}.dlq",
        DEAD,
        routing_key=f"{service}.dlq",
        queue_arguments={"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000},
    )


def clock_queue(service: str) -> Queue:
    return Queue(
        f"{service}.beat",
        TASKS,
        routing_key=f"{service}.beat",
        queue_arguments={"x-queue-type": "quorum", "x-message-ttl": 5_000, "x-max-length": 100},
    )


UNHEARD_QUEUE = Queue(
    "events.unheard",
    UNHEARD,
    queue_arguments={"x-queue-type": "classic", "x-max-length": 10_000, "x-message-ttl": 86_400_000},
)


def every(seconds: float, task: str, service: str, *args: Any) -> dict[str, dict[str, Any]]:
    return {
        f"{task} {service}": {
            "task": task,
            "schedule": seconds,
            "args": args,
            "options": {"queue": f"{service}.beat"},
        }
    }


class CarefulConsumer(Consumer):
    """
    A worker's consumer that loses nothing and survives everything.

    Celery would acknowledge, and so drop, what it can't decode; and a body that is no task would end the worker.
    """

    def create_task_handler(self, **options: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(**options)

        def careful(message: Any) -> None:
            try:
                handle(message)
            except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
                if message.acknowledged:
                    raise
                self.on_decode_error(message, error)

        return careful

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        logger.error("A letter can't be decoded: %s", exc)
        message.reject_log_error(logger, self.connection_errors)


app = Celery("orders_project", set_as_current=True)
app.conf.update(
    broker_url=settings.AMQP_URL,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={"confirm_publish": True, "max_retries": 3, "interval_step": 0.2},
    broker_heartbeat=30,
    task_default_queue="orders",
    task_default_exchange=TASKS.name,
    task_default_exchange_type=TASKS.type,
    task_default_queue_type="quorum",
    task_create_missing_queues=False,
    task_queues=[*map(work_queue, WORK), *map(clock_queue, SERVICES)],
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_acks_on_failure_or_timeout=False,
    # A handler that hangs: longer than one that waits for its database, shorter than the broker waits for its answer.
    task_time_limit=25 * 60,
    worker_prefetch_multiplier=8,
    worker_consumer=f"{__name__}:CarefulConsumer",
    worker_enable_remote_control=True,
    worker_send_task_events=False,
    timezone="UTC",
    beat_schedule={
        **{name: entry for service in SERVICES for name, entry in every(1, "outbox.tick", service, service).items()},
        **{name: entry for service in SERVICES for name, entry in every(5, "outbox.collect", service, service).items()},
        **{name: entry for service in SERVICES for name, entry in every(60, "outbox.purge", service, service).items()},
        **every(10, "processing.expire_holds", "processing"),
        **every(60, "outbox.forget_answers", "orders", "orders"),
        **every(60, "outbox.forget_answers", "payments", "payments"),
        **every(5, "payments.janitor", "payments"),
    },
)
app.conf["CELERY_DB_REUSE_MAX"] = 1000  # Celery's Django fixup: a pool child keeps its connections for this many tasks
app.autodiscover_tasks()
app.autodiscover_tasks(related_name="consumers")


@celeryd_after_setup.connect
def also_hear_the_clock(sender: str, instance: Any, **kwargs: Any) -> None:
    """A worker of a service's queue gets the service's ticks too, so that `-Q payments` is all one has to say."""
    queues = instance.app.amqp.queues
    for service in SERVICES:
        if service in queues.consume_from and f"{service}.beat" not in queues.consume_from:
            queues.select_add(clock_queue(service))


def declare_topology() -> list[str]:
    """Declare every exchange and queue; does nothing to those that stand. The names of the queues."""
    queues = [*map(work_queue, WORK), *map(dead_letter_queue, SERVICES), *map(clock_queue, SERVICES), UNHEARD_QUEUE]
    with Connection(settings.AMQP_URL, connect_timeout=3) as connection, connection.channel() as channel:
        for exchange in (TASKS, DEAD, UNHEARD, EVENTS):
            exchange(channel).declare()
        for queue in queues:
            queue(channel).declare()
    return [queue.name for queue in queues]
