"""The consumer of our Celery workers: what it accepts, and the little of Celery's own that it starts."""

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

from amqp.exceptions import AccessRefused, ChannelError
from celery import bootsteps
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.consumer.connection import Connection
from celery.worker.consumer.consumer import Evloop
from celery.worker.consumer.events import Events
from celery.worker.consumer.heart import Heart
from celery.worker.consumer.tasks import Tasks
from celery.worker.control import Panel
from celery.worker.pidbox import Pidbox
from kombu.exceptions import ContentDisallowed, DecodeError

from outbox import broker, conf
from outbox.consumers import CONSUMERS

from .celery import consume_left_over
from .celery_inspect import ANSWERED

logger = logging.getLogger(__name__)

MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
UNREADABLE = (*MALFORMED, ContentDisallowed, DecodeError)


class NotAllowed(Exception):
    """The sender of a message may not have this task run here."""


class OurTasks(Tasks):
    """Celery's step that consumes, without the step that greets other workers."""

    requires = (Connection,)


class Answers(bootsteps.StartStopStep):
    """
    Celery's step that listens to remote control, with nothing to control: see celery_inspect.py.

    A worker works as well without it: where the broker has no streams, or the deployment has not declared these.
    """

    requires = (OurTasks,)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self.box = Pidbox(consumer)
        self.box.node.handlers = {name: Panel.data[name] for name in ANSWERED}
        self.stop, self.shutdown = self.box.stop, self.box.shutdown

    def start(self, consumer: Any) -> None:
        try:
            self.box.start(consumer)
        except ChannelError as error:
            logger.warning("This worker does not answer `celery inspect`: %s", error)


class Lookout(bootsteps.StartStopStep):
    """
    The step that finds out whether a node of several still delivers.

    # Note [A node that is alone]: from RabbitMQ 4.2 on, a node that is cut off from the others keeps its clients and
    answers their heartbeats. What it would have to ask the others for never comes, such as messages. So a worker to
    which nothing has come for a while asks its queue for one: a node that is not alone answers at once that there is
    none.
    """

    requires = (OurTasks,)
    looks: Any = None

    def include_if(self, consumer: Any) -> bool:
        return len(broker.nodes(conf.AMQP_URL)) > 1

    def start(self, consumer: Any) -> None:
        consumer.heard()
        self.looks = consumer.timer.call_repeatedly(conf.AMQP_HEARTBEAT, consumer.leave_if_alone)

    def stop(self, consumer: Any) -> None:
        if self.looks is not None:
            self.looks.cancel()


class CarefulConsumer(Consumer):
    """
    A worker's consumer that neither loses a message nor stops because of one, and runs nothing that its sender may not
    ask for.

    Celery itself acknowledges, and so drops, a message that it cannot decode; and a body that is not a task ends it.

    # Note [Only what is used]: remote control, gossip and the queues for delayed tasks would have every worker declare
    queues of its own, and whoever could publish to them could stop workers. Events and answers only tell what happens.
    """

    _node = ""  # the one that it is connected to
    _heard_at = 0.0

    class Blueprint(Consumer.Blueprint):
        default_steps = [Connection, Events, Heart, OurTasks, Answers, Lookout, Evloop]

    def connect(self) -> Any:
        """
        Connect, and declare the queues if they may be declared by this user: they may have been deleted. Find out about
        those that are left over.
        """
        connected = super().connect()
        try:
            conf.call("BROKER_TOPOLOGY")
        except AccessRefused:
            logger.debug("This user of the broker may not declare queues: the deployment does.")
        except broker.LOST as error:
            logger.warning("The queues could not be declared: %s", error)
        consume_left_over(connected, self.app.amqp.queues)
        return connected

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """
        Go on at the next node. Let go of the connection for events as well: Celery would wait until the node has said
        good-bye.
        """
        broker.leave(conf.AMQP_URL, self._node)
        super().on_connection_error_after_connected(exc)
        if self.event_dispatcher is not None and self.event_dispatcher.connection is not None:
            self.event_dispatcher.connection.collect()

    def heard(self) -> None:
        """Something has come."""
        self._heard_at = monotonic()

    def leave_if_alone(self) -> None:
        """
        Make sure that the node still delivers, if nothing has come for a while and nothing is being done.

        :raises ConnectionError: if it does not; it is for the loop, which has us connect anew
        """
        if monotonic() - self._heard_at < 2 * conf.AMQP_HEARTBEAT or state.reserved_requests:
            return
        queue = next(iter(self.app.amqp.queues.consume_from))
        if not broker.delivers(self._node, queue):
            raise ConnectionError(f"the node does not answer who asks {queue} for a message")
        self.heard()

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        return self._connected(heartbeat=heartbeat)

    def connection_for_write(self, url: Any = None, heartbeat: Any = None) -> Any:
        """
        Return the connection for Celery's own events.

        # Note [Nobody waits for a confirmation]: the loop of the worker sends them, every few seconds. While it waits
        for a node that stands still, it does not notice that the node it consumes from does.
        """
        return self._connected(heartbeat=heartbeat, transport_options={"confirm_publish": False})

    def _connected(self, **options: Any) -> Any:
        url = broker.answering_first(conf.AMQP_URL)
        self._node = broker.nodes(url)[0]
        return self.ensure_connected(self.app.connection_for_read(url=url, **options))

    def create_task_handler(self, **options: Any) -> Callable[[Any], None]:
        handle = super().create_task_handler(**options)

        def careful(message: Any) -> None:
            self.heard()
            try:
                self.check(message)
                handle(message)
            except NotAllowed as refusal:
                logger.error("A message is refused: %s", refusal)  # noqa: TRY400 - no fault of ours
                message.reject_log_error(logger, self.connection_errors)
            except UNREADABLE as error:
                if message.acknowledged:
                    raise
                self.on_decode_error(message, error)

        return careful

    def check(self, message: Any) -> None:
        """
        Make sure that a message does no more than the broker has allowed its sender.

        The broker looks at the routing key alone. So all that a message says of its type must agree with that, and
        nothing may follow it: Celery would send `callbacks` and the like in the name of this worker.

        :raises NotAllowed: with the reason
        """
        exchange, routing_key = message.delivery_info["exchange"], message.delivery_info["routing_key"]
        task, sent_as = message.headers["task"], broker.type_of(exchange, routing_key)
        arguments, named, follows = message.payload
        # Only the deployment's user may use the default exchange, and earlier versions did.
        is_message = task in CONSUMERS and (sent_as is not None or exchange == "")
        is_periodic = task in self._schedule and sent_as is None
        if task in self.app.tasks and not (is_message or is_periodic):
            raise NotAllowed(f"{task!r} is not to be sent through the exchange {exchange!r}")
        claims = {task} | {one["type"] for one in arguments if isinstance(one, dict) and "type" in one}
        if sent_as is not None and claims != {sent_as}:
            raise NotAllowed(f"it was sent as {sent_as!r} and says that it is {', '.join(map(repr, claims))}")
        if named or any(follows.values()):
            raise NotAllowed(f"{task!r} comes with more than a message")

    @property
    def _schedule(self) -> set[str]:
        return {entry["task"] for entry in self.app.conf.beat_schedule.values()}

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        logger.error("A message cannot be decoded: %s", exc)
        message.reject_log_error(logger, self.connection_errors)
