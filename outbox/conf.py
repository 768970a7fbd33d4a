"""
The settings of the outbox, all of them Django settings. A project needs `AMQP_URL`, and a queue for each service.

AMQP_URL              where RabbitMQ is; the nodes of a cluster separated by `;`
AMQP_HEARTBEAT        seconds; a node that is silent for two of them is lost, and the next one is connected to
OUTBOX_SERVICES       the services of this process: which relays and dead letters it has (default: all of the project)
OUTBOX_EXCHANGE       the topic exchange that leads messages to the queues of services by `<queue>.<type>`, so that the
                      broker can limit what a user may send (default: none, they go to their queues directly)
OUTBOX_QUEUES         how many queues each service has, by what messages are about (default: one), see partitions.py
OUTBOX_SUBJECT_FIELD  the field of a message that holds what it is about, such as "order_id" (default: none)
OUTBOX_SEQUENCE_FIELD the field of an event's data that counts the events of its subject, such as "version": the
                      envelope has it as `sequence` (default: none)
EVENTS_STREAM         the stream in which events are kept for late subscribers (default: events.stream), see stream.py;
EVENTS_STREAM_MAX_AGE, EVENTS_STREAM_MAX_BYTES, EVENTS_STREAM_SEGMENT_BYTES say how long, how much, and in which pieces
OUTBOX_RETENTION      how long a row is kept after it was published
INBOX_RETENTION       how long an inbox row or a resolved dead letter is kept
DEDUPE_HORIZON        a message that was sent longer ago is never handled unseen: shorter than INBOX_RETENTION
UNKNOWN_MESSAGE_WAIT  how long a message waits for a release that knows it before it is a dead letter
OUTBOX_WITHHOLDS      whether `withheld` fields of messages are not written, as a release runs that would refuse them
BROKER_TOPOLOGY       a function that declares exchanges and queues, called when one is missing (default: none)
ON_START              a function called with the name of the process by `manage.py relay` (default: none)
HEARTBEAT_FILE        a file that a living process touches (default: none)
"""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string

DEFAULTS: dict[str, Any] = {
    "AMQP_URL": "amqp://guest:guest@localhost:5672//",
    "AMQP_HEARTBEAT": 5,
    "OUTBOX_SERVICES": None,
    "OUTBOX_EXCHANGE": "",
    "OUTBOX_QUEUES": 1,
    "OUTBOX_SUBJECT_FIELD": "",
    "OUTBOX_SEQUENCE_FIELD": "",
    "EVENTS_STREAM": "events.stream",
    "EVENTS_STREAM_MAX_AGE": "30D",
    "EVENTS_STREAM_MAX_BYTES": 2_000_000_000,
    "EVENTS_STREAM_SEGMENT_BYTES": 20_000_000,
    "OUTBOX_RETENTION": timedelta(days=7),
    "INBOX_RETENTION": timedelta(days=14),
    "DEDUPE_HORIZON": timedelta(days=13),
    "UNKNOWN_MESSAGE_WAIT": timedelta(hours=1),
    "OUTBOX_WITHHOLDS": False,
    "BROKER_TOPOLOGY": None,
    "ON_START": None,
    "HEARTBEAT_FILE": "",
}


def __getattr__(name: str) -> Any:
    if name not in DEFAULTS:
        raise AttributeError(name)
    return getattr(settings, name, DEFAULTS[name])


def call(hook: str, *arguments: Any) -> None:
    """Call the function whose path is in this setting, if there is one."""
    path = __getattr__(hook)
    if path:
        import_string(path)(*arguments)
