"""Messages that a process has no business to send, and how somebody who has taken it over would try to."""

import json
from datetime import UTC, datetime
from typing import Any

import amqp

from outbox.envelope import Envelope
from outbox.ids import uuid7
from outbox.message import Message


def enveloped(message: Message) -> Envelope:
    """A message as it travels."""
    return Envelope(
        id=str(uuid7()), source="/processing", type=message.type, subject=message.subject,
        time=datetime.now(UTC).isoformat(), schemaversion=1, correlationid="c", data=message.data,
    )  # fmt: skip


def forged(message: Message, *, task: str, **embedded: Any) -> tuple[str, amqp.Message]:
    """The id of a message, and the message as a relay publishes it, except for what is forged."""
    envelope = enveloped(message)
    headers = {"lang": "py", "task": task, "id": envelope.id, "retries": 0, "timelimit": [None, None]}
    named = {"raw": envelope.as_dict()} if "named" in embedded else {}
    arguments: list[Any] = [] if named else [envelope.as_dict()]
    if task.startswith("celery."):
        arguments = [{"task": message.type, "args": [], "kwargs": {}}, [envelope.as_dict()]]
    body = json.dumps([arguments, named, {"callbacks": embedded.get("callbacks")}])
    return envelope.id, amqp.Message(
        body, content_type="application/json", content_encoding="utf-8", application_headers=headers, delivery_mode=2
    )


MAY_NOT_SEND = [
    *(
        (name, exchange, key)
        for name in ("webhooks-worker", "orders-web", "payments-web", "back-office", "fake-gateway", "beat")
        for exchange, key in (("messages", "orders.payment.succeeded"), ("", "orders"), ("events", "order.paid"))
    ),
    ("webhooks-worker", "messages", "orders-webhooks.orders.deliver_webhook"),
    ("webhooks-worker", "tasks", "orders.beat"),
    ("webhooks-worker", "dead", "orders.dlq"),
    ("payments-worker", "", "orders"),
    ("payments-worker", "dead", "orders.dlq"),
    ("payments-worker", "tasks", "orders.beat"),
    ("payments-worker", "events", "order.paid"),
    ("payments-relay", "messages", "orders.order.processed"),
    ("payments-relay", "messages", "processing.processing.process"),
    ("processing-relay", "messages", "orders.payment.succeeded"),
    ("processing-relay", "messages", "orders-1.payment.succeeded"),
    ("processing-relay", "messages", "payments.payments.refund"),
    ("processing-relay", "messages", "payments-2.payments.refund"),
    ("orders-relay", "messages", "payments.payments.handle_webhook"),
    ("orders-relay", "tasks", "payments.beat"),
    ("beat", "tasks", "orders"),
    *(
        (name, "questions", "")
        for name in ("orders-worker", "payments-worker", "webhooks-worker", "beat", "orders-web")
    ),
    *((name, "answers", "") for name in ("back-office", "orders-web", "beat")),
    *((name, "", "events.stream") for name in ("orders-relay", "payments-worker", "orders-web")),
]
