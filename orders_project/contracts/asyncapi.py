"""The messages as AsyncAPI 3: commands and events between the services, events for everybody, webhooks out."""

from typing import Any

from django.conf import settings

from orders.models import Order, OrderLine, Status
from orders.serializers import snapshot
from orders.webhook_endpoints import KINDS
from orders.webhooks import PING
from outbox import schema
from outbox.batches import MAX_MESSAGES
from outbox.envelope import Envelope
from outbox.message import EVENTS, REGISTRY, Message
from outbox.services import all_services

from . import facts

SPECIFICATION = "3.1.0"
DESCRIPTION = """
What travels between the services of Orders, and what it tells the outside world.

Every message is a CloudEvent. Between services it is the argument of a Celery task, in a quorum queue; of some types,
up to 25 that were posted at the same time are the arguments of one task. Events of orders are published to the topic
exchange `events`, where any number of subscribers bind queues of their own, and kept for a while in the stream
`events.stream`, which can be read from any point; the same events are sent as signed webhooks (Standard Webhooks) to
the endpoints of clients.

A message may arrive more than once, and in any order: `id` is the same in every copy, and `sequence`, which is the
`version` in an order's data, says which of two events of an order is the later one. Ignore fields that you do not know.
""".strip()

AN_ID = "01a1fe01-4d49-7bd4-9e70-2e5fa2680929"
A_TIME = "2026-11-28T09:30:00+00:00"
# What fields of messages look like, by their names: a new name needs an example here.
EXAMPLES: dict[str, Any] = {
    "order_id": "ord-001", "hold_id": AN_ID, "payment_id": "pay_1", "receipt_id": AN_ID, "delivery_id": AN_ID,
    "amount": 1999, "currency": "USD", "method": "account", "user_id": "ann", "principal": "client:shop",
    "reason": "insufficient_funds", "attempt": 0, "deadline": A_TIME, "capture": "manual", "expires_at": A_TIME,
    "refund_id": AN_ID, "code": "expired_or_canceled_card", "dispute_id": "dp_1", "status": "opened", "sold": True,
    "until": A_TIME, "request_id": AN_ID, "quantities": {AN_ID: 1}, "refunded": 1999,
}  # fmt: skip


def document() -> dict[str, Any]:
    """Return the description of all messages."""
    sent = between_services()
    queues = {queue: [kind for kind in sent if kind.queue == queue] for queue in sorted({kind.queue for kind in sent})}
    channels = {queue: _queue(queue, kinds) for queue, kinds in queues.items()}
    channels |= {"events": _events(), "webhooks": _webhooks()}
    return {
        "asyncapi": SPECIFICATION,
        "info": {
            "title": "Orders", "version": settings.SPECTACULAR_SETTINGS["VERSION"], "description": DESCRIPTION,
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": {
            **{f"handle {queue}": _operation("receive", queue, f"Handled once by {queue}.") for queue in queues},
            "publish events": _operation("send", "events", "Published once or more often to the exchange."),
            "send webhooks": _operation("send", "webhooks", "Sent until the endpoint answers 2xx."),
        },
        "components": {
            "messages": {
                **{kind.name: _task(kind) for kind in sent},
                **{kind: _event(kind) for kind in KINDS},
                **{f"webhook.{kind}": _webhook(kind) for kind in KINDS},
                f"webhook.{PING}": _ping(),
            },
            "schemas": {
                **{_schema_name(kind.name): schema.of_message(kind) for kind in sent},
                "Envelope": schema.of_envelope(),
                facts.NAME: facts.in_words_of_its_own(),
                "WebhookHeaders": _webhook_headers(),
            },
        },
    }  # fmt: skip


def between_services() -> list[type[Message]]:
    """Return the messages that the services of this project send each other, by name."""
    ours = {f"{service}.messages" for service in all_services()}
    return [kind for _, kind in sorted(REGISTRY.items()) if kind.to != EVENTS and kind.__module__ in ours]


# Channels -----------------------------------------------------------------------------------------------------------


def _queue(name: str, kinds: list[type[Message]]) -> dict[str, Any]:
    more = f" With ORDERS_QUEUES above 1 there are {name}.1 and so on: each order has one of them."
    more = more if name in all_services() else ""
    return {
        "address": name,
        "description": f"The quorum queue {name}: Celery tasks, each with a message or several of one type.{more}",
        "messages": {kind.name: _ref("messages", kind.name) for kind in kinds},
        "bindings": {"amqp": {"is": "queue", "queue": {"name": name, "durable": True, "exclusive": False}}},
    }


def _events() -> dict[str, Any]:
    exchange = {"name": EVENTS, "type": "topic", "durable": True, "autoDelete": False}
    return {
        "address": "{type}",
        "description": "A topic exchange; the routing key is the type of the event. Bind a queue of your own.",
        "parameters": {"type": {"description": "The type of the event.", "enum": list(KINDS)}},
        "messages": {kind: _ref("messages", kind) for kind in KINDS},
        "bindings": {"amqp": {"is": "routingKey", "exchange": exchange}},
    }


def _webhooks() -> dict[str, Any]:
    return {
        "address": "{url}",
        "description": "A POST to the URL of an endpoint, signed in the form of Standard Webhooks.",
        "parameters": {"url": {"description": "The URL that the endpoint was registered with."}},
        "messages": {f"webhook.{kind}": _ref("messages", f"webhook.{kind}") for kind in (*KINDS, PING)},
    }


def _operation(action: str, channel: str, summary: str) -> dict[str, Any]:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": summary}


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


# Messages -----------------------------------------------------------------------------------------------------------


def _task(kind: type[Message]) -> dict[str, Any]:
    """A message between services, as a Celery task: [[envelope], {}, options], or with several envelopes."""
    envelope = _envelope(kind.name, data=_ref("schemas", _schema_name(kind.name)))
    sample = example(kind.name, data={name: EXAMPLES[name] for name in schema.of_message(kind)["properties"]})
    sample = sample | {"schemaversion": kind.version}
    others = {"additionalItems": envelope, "maxItems": MAX_MESSAGES} if kind.batched else {"maxItems": 1}
    return {
        "name": kind.name,
        "summary": schema.of_message(kind)["description"].partition("\n")[0],
        "contentType": "application/json",
        "payload": {
            "description": "The body of a Celery task (protocol 2): its arguments, keywords and options.",
            "type": "array",
            "items": [
                {"type": "array", "items": [envelope], "minItems": 1} | others,
                {"type": "object", "maxProperties": 0},
                {"type": "object"},
            ],
            "minItems": 3,
        },
        "examples": [{"payload": [[sample], {}, {}]}],
    }


def _envelope(type_: str, *, data: dict[str, Any]) -> dict[str, Any]:
    return {"allOf": [_ref("schemas", "Envelope"), {"properties": {"type": {"const": type_}, "data": data}}]}


def _event(kind: str) -> dict[str, Any]:
    return {
        "name": kind,
        "summary": facts.told(kind),
        "contentType": "application/cloudevents+json",
        "payload": _envelope(kind, data=_ref("schemas", facts.NAME)),
        "examples": [{"payload": example(kind, data=_order(kind)) | {"sequence": f"{1:010}"}}],
    }


def _webhook(kind: str) -> dict[str, Any]:
    return _signed(kind, facts.told(kind), _ref("schemas", facts.NAME), _order(kind))


def _ping() -> dict[str, Any]:
    return _signed(PING, facts.PING_TOLD, facts.PING_DATA, {"endpoint_id": AN_ID})


def _signed(kind: str, summary: str, data: dict[str, Any], sample: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": f"webhook.{kind}",
        "summary": summary,
        "contentType": "application/json",
        "headers": _ref("schemas", "WebhookHeaders"),
        "payload": facts.body(kind, data),
        "examples": [{"payload": {"type": kind, "timestamp": A_TIME, "data": sample}}],
    }


def _webhook_headers() -> dict[str, Any]:
    return {"type": "object", "required": list(facts.HEADERS), "properties": facts.HEADERS}


def example(type_: str, *, data: dict[str, Any]) -> dict[str, Any]:
    """Return an example of an envelope."""
    return Envelope(
        id=AN_ID, source="/orders", type=type_, subject=str(data.get("order_id", "")), time=A_TIME, schemaversion=1,
        correlationid="0f4c1c5ad5a44d58a1a4bb0f6b0f5f0e", data=data,
    ).as_dict()  # fmt: skip


def _order(kind: str) -> dict[str, Any]:
    what = kind.partition(".")[2]
    status = {"created": "pending"}.get(what, what if what in Status.values else "done")
    order = Order(
        order_id="ord-001", number=1042, user_id="ann", status=status, version=1, total=1999, currency="USD",
        payment_method="account", metadata={"campaign": "winter"}, created_at=A_TIME, updated_at=A_TIME,
    )  # fmt: skip
    line = OrderLine(order=order, position=1, product_id=AN_ID, sku="LAMP", name="Lamp", quantity=1, unit_price=1999)
    order.loaded_lines = [line]
    about = {name: EXAMPLES_ABOUT[name] for name in ABOUT.get(what, ())}
    return snapshot(order) | about


ABOUT = {"refunded": ("refund",), "refund_failed": ("refund",), "disputed": ("dispute",)}
EXAMPLES_ABOUT: dict[str, Any] = {
    "refund": {
        "refund_id": AN_ID, "amount": 5.0, "currency": "USD", "status": "succeeded", "reason": "scratched",
        "fail_code": None,
    },
    "dispute": {
        "dispute_id": "dp_1", "status": "opened", "amount": 5.0, "currency": "USD", "reason": "fraudulent",
    },
}  # fmt: skip


def _schema_name(name: str) -> str:
    return "".join(part.title() for part in name.replace(".", "_").split("_"))
