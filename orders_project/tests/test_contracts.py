"""The written descriptions are what the code says, and no change breaks what a release has promised."""

import copy
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
import yaml

from orders_project import contracts
from orders_project.contracts import asyncapi, compare, openapi
from outbox.envelope import Envelope
from outbox.message import REGISTRY

RELEASES = sorted(contracts.RELEASED.glob("*/asyncapi.yaml"))


@pytest.fixture(scope="module")
def api() -> Any:
    """The API as the code describes it, made here and not where this file is read: each parallel worker reads it."""
    return openapi.document()


@pytest.fixture(scope="module")
def messages() -> Any:
    """The messages as the code describes them."""
    return asyncapi.document()


def test_the_written_documents_are_what_the_code_says() -> None:
    assert list(contracts.outdated()) == []


def test_a_version_that_is_released_does_not_change(settings: Any) -> None:
    settings.SPECTACULAR_SETTINGS = settings.SPECTACULAR_SETTINGS | {"VERSION": "1.0.0"}
    assert "docs/openapi.yaml is not what was released as 1.0.0: count VERSION in the settings up." in [
        *contracts.outdated()
    ]


def test_no_released_contract_is_broken() -> None:
    assert RELEASES
    assert list(contracts.broken()) == []


@pytest.mark.parametrize("path", RELEASES, ids=lambda path: path.parent.name)
def test_the_samples_of_every_release_are_read(path: Any) -> None:
    messages = yaml.safe_load(path.read_text())["components"]["messages"]
    assert messages
    for name, message in messages.items():
        assert message["examples"], name
        for example in message["examples"]:
            payload = json.loads(json.dumps(example["payload"]))
            if isinstance(payload, list):  # a task, which today's handlers get
                assert Envelope.parse(payload[0][0]).message().name == name
            elif "specversion" in payload:  # an event, which may wait in an outbox or among the dead letters
                assert Envelope.parse(payload).type == name
            else:
                assert name == f"webhook.{payload['type']}"


def test_every_message_between_services_is_described_with_a_valid_example(messages: Any) -> None:
    described = messages["components"]["messages"]
    assert {kind.name for kind in asyncapi.between_services()} <= described.keys()
    assert {name for name in REGISTRY if not name.startswith("tests.")} <= described.keys() | {"order.fact"}
    for name, message in described.items():
        assert message["summary"], name
        for example in message["examples"]:
            schema = {**message["payload"], "components": messages["components"]}
            jsonschema.Draft7Validator(schema).validate(example["payload"])


# Each breaks something: what to do to a copy of the document, and the line that names it.
BROKEN_API: dict[str, tuple[Callable[[Any], Any], str]] = {
    "path": (lambda d: d["paths"].pop("/orders/{order_id}"), "GET /orders/{order_id}: is gone"),
    "method": (lambda d: d["paths"]["/orders"].pop("post"), "POST /orders: is gone"),
    "answer": (lambda d: d["paths"]["/orders"]["post"]["responses"].pop("201"), "POST /orders 201: is gone"),
    "field": (
        lambda d: d["components"]["schemas"]["Order"]["properties"].pop("status"),
        "GET /orders/{order_id} 200.status: is gone",
    ),
    "optional": (
        lambda d: d["components"]["schemas"]["Order"]["required"].remove("status"),
        "GET /orders/{order_id} 200.status: may be missing now",
    ),
    "type": (
        lambda d: d["components"]["schemas"]["Order"]["properties"].update(version={"type": "string"}),
        "GET /orders/{order_id} 200.version: can be string now",
    ),
    "parameter": (
        lambda d: d["paths"]["/orders"]["get"].update(
            parameters=[p for p in d["paths"]["/orders"]["get"]["parameters"] if p["name"] != "status"]
        ),
        "GET /orders query status: is gone",
    ),
    "field of a body": (
        lambda d: d["components"]["schemas"]["NewOrderRequest"]["properties"].pop("description"),
        "POST /orders body.description: is gone",
    ),
    "field of a line": (
        lambda d: d["components"]["schemas"]["NewLineRequest"].update(required=["sku"]),
        "POST /orders body.items[].sku: is required now",
    ),
    "value": (
        lambda d: d["components"]["schemas"]["OrderStatus"]["enum"].remove("paid"),
        "GET /orders query status: can't be paid any more",
    ),
    "option": (
        lambda d: d["components"]["schemas"]["PaymentMethod"]["enum"].remove("gateway"),
        "POST /orders body.payment_method: can't be gateway any more",
    ),
    "required": (
        lambda d: d["paths"]["/orders"]["get"]["parameters"].append(
            {"in": "query", "name": "shop", "required": True, "schema": {"type": "string"}}
        ),
        "GET /orders query shop: is required now",
    ),
}
CHARGE = "payments.charge payload[0][0].data"
BROKEN_MESSAGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "message": (lambda d: d["components"]["messages"].pop("payments.charge"), "payments.charge: is gone"),
    "field": (
        lambda d: d["components"]["schemas"]["PaymentsCharge"]["properties"].pop("currency"),
        f"{CHARGE}.currency: is gone",
    ),
    "type": (
        lambda d: d["components"]["schemas"]["PaymentsCharge"]["properties"].update(amount={"type": "string"}),
        f"{CHARGE}.amount: can't be integer any more",
    ),
    "required": (
        lambda d: d["components"]["schemas"]["PaymentsCharge"].update(required=["shop"]),
        f"{CHARGE}.shop: is required now",
    ),
    "event": (
        lambda d: d["components"]["schemas"]["OrderFact"]["properties"].pop("total"),
        "order.paid payload.data.total: is gone",
    ),
    "status": (
        lambda d: d["components"]["schemas"]["OrderFact"]["properties"]["status"]["enum"].remove("paid"),
        "order.paid payload.data.status: can't be paid any more",
    ),
}


@pytest.mark.parametrize("what", BROKEN_API)
def test_a_change_that_breaks_the_api_is_named(api: Any, what: str) -> None:
    change, line = BROKEN_API[what]
    changed = copy.deepcopy(api)
    change(changed)
    assert line in compare.openapi(api, changed)


@pytest.mark.parametrize("what", BROKEN_MESSAGES)
def test_a_change_that_breaks_a_message_is_named(messages: Any, what: str) -> None:
    change, line = BROKEN_MESSAGES[what]
    changed = copy.deepcopy(messages)
    change(changed)
    assert line in compare.asyncapi(messages, changed)


def test_what_is_added_breaks_nothing(api: Any, messages: Any) -> None:
    more, more_messages = copy.deepcopy(api), copy.deepcopy(messages)
    more["components"]["schemas"]["Order"]["properties"]["note"] = {"type": "string"}
    more["paths"]["/orders"]["get"]["parameters"].append({"in": "query", "name": "shop", "schema": {"type": "string"}})
    more_messages["components"]["schemas"]["PaymentsCharge"]["properties"]["note"] = {"type": "string"}
    assert compare.openapi(api, more) == []
    assert compare.asyncapi(messages, more_messages) == []
