"""What an operator may do for an order that is stuck: repeat its last request, turn it back, or resolve it."""

from collections.abc import Callable
from datetime import datetime

from django.db import transaction
from django.utils.translation import gettext as _g

from common.errors import Refusal
from outbox.message import Message

from . import saga
from .models import Order, Outgoing, Status

CANCELED_BY_OPERATOR = "canceled_by_operator"


class NothingToRepeat(Refusal):
    """The order has ended and waits for no answer."""

    code = "nothing_to_repeat"


class NotPossible(Refusal):
    """The event cannot happen to an order in this status."""

    code = "out_of_turn"


def last_request(order: Order) -> Callable[[Order], Message] | None:
    """What makes the command that an order in this status waits to be answered; none if it waits for nothing."""
    again = saga.STEPS.get((Status(order.status), saga.Overdue))
    if again is not None and again.becomes == order.status:
        return again.says
    return {
        Status.PENDING: saga.charge,
        Status.RESERVED: saga.charge,
        Status.PAYMENT_PENDING: saga.charge,
        Status.PAID: saga.process,
    }.get(Status(order.status))


@transaction.atomic(using="orders")
def repeat_request(*, order_id: str) -> Message:
    """
    Send once more the command that an order waits to be answered, and return it.

    The service that handles it a second time gives the same answer again.

    :raises NothingToRepeat: if the order waits for nothing
    """
    order = Order.objects.select_for_update().get(pk=order_id)
    command = last_request(order)
    if command is None:
        raise NothingToRepeat(
            _g("The order is %(status)s and waits for nothing.") % {"status": order.get_status_display()}
        )
    message = command(order)
    Outgoing.post(message)
    return message


@transaction.atomic(using="orders")
def turn_back(*, order_id: str, now: datetime, actor: str, reason: str = "", if_version: int | None = None) -> Order:
    """
    Cancel an order from wherever it is: it gives back what it has taken. The reason is kept in its history.

    :raises saga.VersionConflict: if `if_version` is given and the order is at another version
    :raises saga.OutOfTurn: if it is done or has failed
    """
    event = saga.CancelRequested(CANCELED_BY_OPERATOR)
    return saga.advance(order_id=order_id, event=event, now=now, actor=actor, note=reason, if_version=if_version)


def possible_events(order: Order) -> dict[str, type[Message]]:
    """The events of other services that would move an order in this status, by name."""
    return {
        kind.name: kind
        for (status, kind), step in saga.STEPS.items()
        if status == order.status
        and issubclass(kind, Message)
        and kind is not saga.Overdue
        and (step.says or step.becomes != status)
    }


@transaction.atomic(using="orders")
def resolve(*, order_id: str, event: str, evidence: str, now: datetime, actor: str, if_version: int) -> Order:
    """
    Apply the event that another service should have sent, because a person has seen the evidence. The evidence is kept
    in the order's history.

    Only the order moves: the data of the other services stays as it is, and `manage.py audit` compares.

    :raises NotPossible: if the event cannot happen to an order in this status
    :raises saga.VersionConflict: if the order is at another version
    """
    order = Order.objects.get(pk=order_id)
    kind = possible_events(order).get(event)
    if kind is None:
        raise NotPossible(
            _g("The order is %(status)s: %(event)s cannot happen to it now.")
            % {"status": order.get_status_display(), "event": event}
        )
    known = {"payment_id": order.payment_id, "reason": "resolved_by_operator", "hold_id": str(order.hold_id)}
    fields = kind.__dataclass_fields__  # type: ignore[attr-defined]  # every message is a dataclass
    data = {"order_id": order_id} | {name: value for name, value in known.items() if name in fields}
    return saga.advance(
        order_id=order_id, event=kind.read(data), now=now, actor=actor, note=evidence, if_version=if_version
    )
