"""What an operator may do for an order that stands still: repeat its word, turn it back, tell it the truth."""

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
    """The order has come to its end and waits for nobody."""

    code = "nothing_to_repeat"


class MovedOn(Refusal):
    """The order has moved on since the operator looked at it."""

    code = "version_conflict"


class NotPossible(Refusal):
    """An order in this status can't hear that."""

    code = "out_of_turn"


def word(order: Order) -> Callable[[Order], Message] | None:
    """What an order in this status has last asked for; none if it asks for nothing."""
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
def repeat(*, order_id: str) -> Message:
    """
    Let an order say again what it last asked for. Who is asked a second time answers as the first time.

    :raises NothingToRepeat: if it waits for nobody
    """
    order = Order.objects.select_for_update().get(pk=order_id)
    says = word(order)
    if says is None:
        raise NothingToRepeat(
            _g("The order is %(status)s and waits for nobody.") % {"status": order.get_status_display()}
        )
    message = says(order)
    Outgoing.post(message)
    return message


@transaction.atomic(using="orders")
def turn_back(*, order_id: str, now: datetime, actor: str, reason: str = "", if_version: int | None = None) -> Order:
    """
    Have an order give back what it has taken, from where it stands; its history says why.

    :raises MovedOn: if it is at another version than the operator saw
    :raises saga.OutOfTurn: if it is done or has failed
    """
    try:
        return saga.advance(
            order_id=order_id,
            event=saga.CancelRequested(CANCELED_BY_OPERATOR),
            now=now,
            actor=actor,
            note=reason,
            if_version=if_version,
        )
    except saga.VersionConflict as conflict:
        raise MovedOn(_g("The order has moved on since you looked at it. Look again.")) from conflict


def truths(order: Order) -> dict[str, type[Message]]:
    """What an order in this status could be told by another service, by name, and it would move."""
    return {
        kind.name: kind
        for status, kind in saga.STEPS
        if status == order.status and issubclass(kind, Message) and kind is not saga.Overdue
    }


@transaction.atomic(using="orders")
def resolve(*, order_id: str, truth: str, evidence: str, now: datetime, actor: str, if_version: int) -> Order:
    """
    Tell an order what another service should have told it, because a person has seen the evidence. It is kept in the
    order's history.

    Only the order moves: the other services keep what they know, and `manage.py audit` compares.

    :raises NotPossible: if an order in its status can't hear that
    :raises MovedOn: if it is at another version than the operator saw
    """
    order = Order.objects.get(pk=order_id)
    kind = truths(order).get(truth)
    if kind is None:
        raise NotPossible(
            _g("The order is %(status)s and can't hear %(event)s.")
            % {"status": order.get_status_display(), "event": truth}
        )
    said: dict[str, object] = {"order_id": order_id}
    known = {"payment_id": order.payment_id, "reason": "resolved_by_operator", "hold_id": str(order.hold_id)}
    for name in known:
        if name in kind.__dataclass_fields__:  # type: ignore[attr-defined]  # every message is a dataclass
            said[name] = known[name]
    try:
        return saga.advance(
            order_id=order_id, event=kind.read(said), now=now, actor=actor, note=evidence, if_version=if_version
        )
    except saga.VersionConflict as conflict:
        raise MovedOn(_g("The order has moved on since you looked at it. Look again.")) from conflict
