"""
What events and webhooks tell: the order as the API shows it, and what only they contain.

Both descriptions say it: AsyncAPI as messages, OpenAPI as its `webhooks`.
"""

from typing import Any

from drf_spectacular.generators import SchemaGenerator

from common import signing
from orders.models import Refund, Status
from orders.webhook_endpoints import KINDS
from orders.webhooks import PING
from outbox import schema

NAME = "OrderFact"
ADDED_LATER = "Missing in events of release 1.0.0."
CURRENCY = {"type": "string", "pattern": "^[A-Z]{3}$"}
AMOUNT = {"type": "number", "exclusiveMinimum": 0, "description": "In the unit of the currency."}
OF_1_0_0 = {
    "order_id", "customer_id", "user_id", "status", "version", "currency", "payment_method", "payment_id",
    "fail_reason", "updated_at",
}  # fmt: skip
REQUIRED = ["order_id", "status", "version", "total", "currency", "payment_method"]
BESIDES: dict[str, Any] = {
    "total": {
        "type": "integer",
        "minimum": 0,
        "deprecated": True,
        "description": "Deprecated: `total_amount` in minor units. It ends with the first release after 2027-06-30.",
    },
    "refund": {
        "type": "object",
        "description": "In `order.refunded` and `order.refund_failed`: the refund that is told of.",
        "properties": {
            "refund_id": {"type": "string", "maxLength": 64},
            "amount": AMOUNT,
            "currency": CURRENCY,
            "status": {"enum": Refund.Status.values},
            "reason": {"type": "string"},
            "fail_code": {"type": ["string", "null"]},
            "lines": {
                "type": "array",
                "description": f"The lines it is of, if it is of some. {ADDED_LATER}",
                "items": {
                    "type": "object",
                    "properties": {
                        "position": {"type": "integer"},
                        "quantity": {"type": "integer"},
                        "amount": AMOUNT,
                    },
                },
            },
            "restock": {"type": "boolean", "description": f"Whether they go back into stock. {ADDED_LATER}"},
        },
    },
    "captured_amount": {**AMOUNT, "description": f"What is taken, if it is less than the total. {ADDED_LATER}"},
    "origin": {
        "type": "string",
        "description": "In `order.created`, and in no webhook: encrypted, for this system alone.",
    },
    "dispute": {
        "type": "object",
        "description": "In `order.disputed`: what the payer's bank wants back, or what came of it.",
        "properties": {
            "dispute_id": {"type": "string"},
            "status": {"enum": ["opened", "won", "lost"]},
            "amount": AMOUNT,
            "currency": CURRENCY,
            "reason": {"type": "string"},
        },
    },
}
TOLD = {
    "created": "An order was accepted.",
    "refunded": "A part of the money of an order is back; the order stays as it is.",
    "refund_failed": "A refund of an order that stays has failed, perhaps after it had succeeded.",
    "disputed": "The payer's bank wants money of an order back, or it is decided who gets it.",
}
PING_DATA = {"type": "object", "required": ["endpoint_id"], "properties": {"endpoint_id": schema.UUID}}
PING_TOLD = "Sent on request, to try an endpoint."
HEADERS: dict[str, Any] = {
    "webhook-id": {**schema.UUID, "description": "The same in every attempt: use it to act once."},
    "webhook-timestamp": {"type": "string", "pattern": "^[0-9]+$", "description": "Unix time, in seconds."},
    "webhook-signature": {
        "type": "string",
        "description": "One or more of `v1,<base64>`: HMAC-SHA256 of `id.timestamp.body` with the secret"
        f" (`{signing.PREFIX}…`); during a rotation one for each secret.",
    },
}


def told(kind: str) -> str:
    """What an event tells, in a sentence."""
    what = kind.partition(".")[2]
    return TOLD.get(what) or f"An order has become {Status(what).label}."


def body(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """The schema of the body of a webhook."""
    return {
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {"type": {"const": kind}, "timestamp": schema.TIME, "data": data},
    }


def of_order(schemas: dict[str, Any]) -> dict[str, Any]:
    """The schema of the data of events, from the schemas of the API."""
    shown = {name: dict(field) for name, field in schemas["Order"]["properties"].items() if name != "events"}
    for name, field in shown.items():
        field.pop("readOnly", None)
        if name not in OF_1_0_0:
            field["description"] = " ".join(filter(None, (field.get("description"), ADDED_LATER)))
    shown["order_id"] |= {"maxLength": 64}
    shown["version"] |= {"minimum": 1, "description": "Rises by one with every transition."}
    shown["updated_at"] = {**schema.TIME, "type": ["string", "null"]}
    return {
        "description": "An order as it was at that version, as `GET /orders/{order_id}` shows it.",
        "type": "object",
        "required": REQUIRED,
        "properties": shown | BESIDES,
    }


def in_full(part: Any, schemas: dict[str, Any]) -> Any:
    """A schema with what it refers to in place of the references."""
    if isinstance(part, list):
        return [in_full(each, schemas) for each in part]
    if not isinstance(part, dict):
        return part
    if reference := part.get("$ref"):
        return in_full(schemas[reference.rpartition("/")[2]], schemas)
    whole = {name: in_full(each, schemas) for name, each in part.items()}
    if len(whole.get("allOf", ())) == 1:  # a reference beside a description
        (of,) = whole.pop("allOf")
        return of | whole
    return whole


def in_words_of_its_own() -> dict[str, Any]:
    """The schema of the data of events, which refers to no other."""
    schemas = SchemaGenerator().get_schema(request=None, public=True)["components"]["schemas"]
    whole: dict[str, Any] = in_full(of_order(schemas), schemas)
    for field in whole["properties"].values():
        if "enum" in field:
            field.pop("type", None)  # which the values say, and release 1.0.0 did not
    return whole


def describe_webhooks(result: dict[str, Any], generator: Any, **kwargs: Any) -> dict[str, Any]:
    """Add to the description of the API what is sent to the endpoints of clients (a hook of drf-spectacular)."""
    schemas = result["components"]["schemas"]
    schemas[NAME] = of_order(schemas)
    data = {kind: {"$ref": f"#/components/schemas/{NAME}"} for kind in KINDS} | {PING: PING_DATA}
    result["webhooks"] = {kind: {"post": _operation(kind, each)} for kind, each in data.items()}
    return result


def _operation(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "header", "required": True, "schema": header, "description": header["description"]}
        for name, header in HEADERS.items()
    ]
    return {
        "operationId": f"webhook_{kind.replace('.', '_')}",
        "summary": PING_TOLD if kind == PING else told(kind),
        "description": "Sent to the URL of an endpoint until it accepts it. Check the signature before parsing.",
        "tags": ["webhook-endpoints"],
        "parameters": parameters,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body(kind, data)}}},
        "responses": {
            "2XX": {"description": "It is accepted."},
            "410": {"description": "The endpoint wants no more: it is switched off."},
            "default": {"description": "It is sent again later."},
        },
    }
