"""A message that names something by what is no id or no time is a dead letter at once: trying again changes nothing."""

from typing import Any, get_type_hints
from uuid import uuid4

import pytest
from django.utils import timezone

from orders import services
from orders.models import Order
from orders_project.contracts import asyncapi
from outbox.consumers import receive
from outbox.envelope import Envelope
from outbox.errors import Undeliverable
from outbox.message import Message
from outbox.services import model_of

Field = tuple[type[Message], str]
# Names that clients and gateways choose, or by which nothing is looked up.
NAMES = {"order_id", "user_id", "payment_id", "dispute_id", "request_id"}
FIELDS: list[Field] = [(kind, name) for kind in asyncapi.between_services() for name in kind.__dataclass_fields__]  # type: ignore[attr-defined]
IDS = [(kind, name) for kind, name in FIELDS if name.endswith("_id") and name not in NAMES]
TIMES = [(kind, name) for kind, name in FIELDS if name in ("deadline", "until")]
PASSED_ON = {"stock.hold_expired"}  # to processing, which refuses it


def message(kind: type[Message], values: dict[str, Any]) -> Envelope:
    """Return a message with these values, and with some for the other fields that it must have."""
    fields: dict[str, Any] = {}
    for name, of in get_type_hints(kind).items():
        if of in (str, int, dict[str, int]):
            fields[name] = "x" if of is str else 1 if of is int else {}
        if (kind, name) in IDS + TIMES:
            fields[name] = str(uuid4()) if (kind, name) in IDS else timezone.now().isoformat()
    return Envelope(
        id=str(uuid4()), source="/test", type=kind.name, subject=values["order_id"], time=timezone.now().isoformat(),
        schemaversion=kind.version, correlationid="c", data=fields | values,
    )  # fmt: skip


@pytest.fixture
def order() -> Order:
    new = services.NewOrder(lines=(services.Line(quantity=1, price=5),), order_id="o", user_id="ann")
    return services.place_order(new=new, now=timezone.now())[0]


@pytest.mark.django_db
@pytest.mark.parametrize("value", ["no", "2026-01-01T00:00:00"])
@pytest.mark.parametrize("field", IDS + TIMES, ids=[f"{kind.name} {name}" for kind, name in IDS + TIMES])
def test_is_refused_at_once(field: Field, value: str, order: Order) -> None:
    kind, name = field
    bad = message(kind, {"order_id": order.pk, name: value})
    result = receive(kind.to, bad.as_dict(), headers={}, worker="test")
    assert result.again_at is None, result.error
    if kind.name not in PASSED_ON:
        assert isinstance(result.error, Undeliverable)
        assert model_of(kind.to, "DeadLetter").objects.get(type=kind.name).reason == "malformed"


def test_what_all_services_are_told_is_tried() -> None:
    assert {kind.to for kind, _name in IDS} == {"orders", "payments", "processing"}
    assert (len(IDS), len(TIMES)) >= (11, 3)
