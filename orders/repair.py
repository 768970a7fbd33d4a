"""What an operator may do for an order that is stuck: repeat its last request, turn it back, or resolve it."""

from collections.abc import Callable
from datetime import datetime

from django.db import transaction
from django.utils.translation import gettext as _g

from common.authority import Authority
from common.errors import Refusal
from outbox.message import Message

from . import saga, transitions
from .models import Order, Outgoing, Status

CANCELED_BY_OPERATOR = "canceled_by_operator"
UNPAID = frozenset(  # what can be canceled without a refund
    {Status.PENDING, Status.RESERVED, Status.PAYMENT_PENDING, Status.AUTHORIZED, Status.CAPTURING}
)
PAID = frozenset({Status.PAID})


class NothingToRepeat(Refusal):
    """The order has ended and waits for no answer."""

    code = "nothing_to_repeat"


class NotPossible(Refusal):
    """The action or the event is not possible in the status of the order."""

    code = "out_of_turn"


def last_request(order: Order) -> Callable[[Order], Message] | None:
    """What makes the command that an order in this status waits to be answered; none if it waits for nothing."""
    again = saga.decide(order, saga.Overdue)
    if isinstance(again, saga.Step) and again.becomes == order.status:
        return again.says
    if order.status == Status.AUTHORIZED:
        return saga.process if order.capture == Order.Capture.AFTER_PROCESSING else None
    return {
        Status.PENDING: saga.first_command,
        Status.RESERVED: saga.first_command,
        Status.PAYMENT_PENDING: saga.first_command,
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
def cancel(*, order_id: str, now: datetime, by: Authority, reason: str, if_version: int) -> Order:
    """
    Cancel an order that is not paid: it gives back what it has taken. The reason is kept in its history.

    :raises NotPossible: if it is paid, is being turned back, or has ended
    :raises transitions.VersionConflict: if it is at another version
    :raises ReasonMissing: without a reason
    """
    return _turn_back(order_id, UNPAID, now=now, by=by, reason=reason, if_version=if_version)


@transaction.atomic(using="orders")
def cancel_and_refund(*, order_id: str, now: datetime, by: Authority, reason: str, if_version: int) -> Order:
    """
    Cancel an order that is paid: it gives back its stock and then its money. The reason is kept in its history.

    :raises NotPossible: if it is not paid, is being turned back, or has ended
    :raises transitions.VersionConflict: if it is at another version
    :raises ReasonMissing: without a reason
    :raises NeedsSecondPerson: if one person may not give this amount back alone
    """
    return _turn_back(order_id, PAID, now=now, by=by, reason=reason, if_version=if_version)


def _turn_back(
    order_id: str, statuses: frozenset[Status], *, now: datetime, by: Authority, reason: str, if_version: int
) -> Order:
    by.justify(reason)
    order = _lock(order_id, if_version)
    if order.status not in statuses:
        raise NotPossible(_g("This is not possible while the order is %(status)s.") % {"status": _status(order)})
    transitions.apply(saga.CancelRequested(CANCELED_BY_OPERATOR), order, now=now, by=by, note=reason)
    return order


def _lock(order_id: str, version: int) -> Order:
    order = transitions.lock(order_id)
    if order.version != version:
        raise transitions.VersionConflict(order)
    return order


def _status(order: Order) -> str:
    return order.get_status_display()


def possible_events(order: Order) -> dict[str, type[Message]]:
    """The events of other services that would move an order in this status, by name."""
    decided = {kind: saga.decide(order, kind) for kind in saga.EVENTS}
    return {
        kind.name: kind
        for kind, step in decided.items()
        if isinstance(step, saga.Step)
        and issubclass(kind, Message)
        and kind is not saga.Overdue
        and (step.says or step.becomes != order.status)
    }


@transaction.atomic(using="orders")
def resolve(*, order_id: str, event: str, evidence: str, now: datetime, by: Authority, if_version: int) -> Order:
    """
    Apply the event that another service should have sent, because a person has seen the evidence. The evidence is kept
    in the order's history.

    Only the order moves: the data of the other services stays as it is, and `manage.py audit` compares. Whatever the
    event is, the order is worth its total to somebody: it is refunded, delivered without payment, or forgotten.

    :raises NotPossible: if the event cannot happen to an order in this status
    :raises transitions.VersionConflict: if the order is at another version
    :raises ReasonMissing: without evidence
    :raises NeedsSecondPerson: if one person may not decide about this amount alone
    """
    by.justify(evidence)
    order = _lock(order_id, if_version)
    kind = possible_events(order).get(event)
    if kind is None:
        raise NotPossible(
            _g("The order is %(status)s: %(event)s cannot happen to it now.")
            % {"status": _status(order), "event": event}
        )
    by.permit(order.total, order.currency)
    known = {
        "payment_id": order.payment_id,
        "reason": "resolved_by_operator",
        "hold_id": str(order.hold_id),
        "amount": order.paid,
    }
    fields = kind.__dataclass_fields__  # type: ignore[attr-defined]  # every message is a dataclass
    data = {"order_id": order_id} | {name: value for name, value in known.items() if name in fields}
    transitions.apply(kind.read(data), order, now=now, by=by, note=evidence)
    return order
