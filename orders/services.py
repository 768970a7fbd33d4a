"""What the endpoints do with orders: place, read and cancel them."""

import json
from collections.abc import Collection
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet, prefetch_related_objects
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext as _g

from common import idempotency, locks, money
from common.authority import SYSTEM, Authority
from common.errors import NotDuringUpgrade, Refusal
from common.idempotency import KeyReused
from common.principal import Principal
from outbox import clock, ids
from outbox.store import Statement
from processing import services as stock
from processing.messages import GiveBack

from . import archive, repair, saga, shedding, transitions
from .models import LOADED_LINES, ROWS, IdempotencyKey, Order, OrderLine, Outgoing, Status, new_order_id
from .new_order import NewOrder
from .pricing import Line, price

__all__ = ["Line", "NewOrder", "NoSuchOrder", "OrderExists", "cancel_order", "get_order", "orders_of", "place_order"]


EXPANDABLE = ("events",)  # what can be read together with orders, in one more query for all of them
MAX_NAMESAKES = 100  # orders of one name that are looked at, for staff, who see those of all clients
MAX_NAMED = 10  # of them that a refusal names


class NoSuchOrder(Refusal):
    code = "order_not_found"


class AmbiguousOrder(Refusal):
    """Who sees the orders of all clients wants to change one by an id that several of them use."""

    code = "ambiguous_order"

    def __init__(self, order_id: str, found: list[str]) -> None:
        super().__init__(
            _g("Several clients have an order %(order)s. Name one of these: %(orders)s.")
            % {"order": order_id, "orders": ", ".join(found[:MAX_NAMED])},
            extra={"order_ids": found[:MAX_NAMED]},
        )


class OrderExists(Refusal):
    code = "order_exists"


class NothingReserved(Refusal):
    code = "nothing_reserved"


class CaptureExceedsAuthorized(Refusal):
    code = "capture_exceeds_authorized"


# Placing ------------------------------------------------------------------------------------------------------------


def admit(*, new: NewOrder, now: datetime, key: str | None = None) -> None:
    """
    Let an order pass that can be finished in time, or that was placed before under the same id or key.

    Each endpoint calls this before it does anything else with an order.

    :raises shedding.Overloaded: if it is to be refused
    """
    shedding.admit(lambda: _stored(new, key=key, now=now) is not None)


def place_order(*, new: NewOrder, now: datetime, actor: str = "", key: str | None = None) -> tuple[Order, bool]:
    """
    Hold the stock of an order, store it and start its saga. Return it, with its lines, and whether it is new.

    The same order is placed only once under the same id, or else under the same idempotency `key` of its principal:
    the second time, the stored order is returned.

    :raises Refusal: saying why not
    :raises processing.services.InsufficientStock: naming the lines
    """
    # Note [The hold is made first]: stock is held, and committed, in the database of processing before the order
    # commits here, and before a transaction begins here, which would be kept waiting for a popular product. A crash in
    # between leaves a hold without an order. It expires; and if the customer tries again before that, the hold is the
    # answer to the new attempt, because it has the same order id.
    stored = _stored(new, key=key, now=now)
    if stored is not None:
        return stored, False
    reference = new.order_id if new.order_id is not None and new.principal else ""
    if reference and settings.UPGRADING and not Order.objects.filter(pk=reference).exists():
        order_id, reference = reference, ""
    elif reference:
        order_id = id_of_reference(reference, principal=new.principal, day=now.date())
    elif new.order_id is not None:
        order_id = new.order_id
    elif key is not None:
        order_id = id_under(key, principal=new.principal, day=now.date())
    else:
        order_id = new_order_id()
    method = _method(new)
    currency = new.currency or settings.CURRENCY
    lines = price(new.lines, currency=currency, total=new.total)
    quantities = {str(line.product_id): line.quantity for line in lines if line.product_id is not None}
    hold_id = None
    if quantities:
        try:
            hold_id = stock.hold(order_id=order_id, quantities=quantities, now=now)
        except stock.InsufficientStock as refusal:
            raise _by_line(refusal, new.lines, lines) from None
    order = Order(
        order_id=order_id,
        reference=reference,
        principal=new.principal,
        customer_id=new.customer_id,
        user_id=new.user_id,
        user_email=new.user_email,
        description=new.description,
        metadata=new.metadata,
        status=Status.RESERVED if hold_id else Status.PENDING,
        total=sum(line.amount for line in lines),
        currency=currency,
        payment_method=method,
        capture=_capture(new, method),
        hold_id=hold_id,
        fingerprint=new.fingerprint,
        created_at=now,
        updated_at=now,
        status_since=now,
    )
    for line in lines:
        line.order = order
    with transaction.atomic(using="orders"):
        if (stored := _stored(new, key=key, now=now, exclusive=True)) is not None:
            _give_back_another(hold_id, stored)
            return stored, False
        transitions.begin(order, lines, actor=actor)
        # Note [Stored within half of the hold's time]: whoever was frozen since would otherwise store an order whose
        # hold has been given back. From here on the limit of an idle transaction ends what takes longer.
        if clock.now("orders") - now > settings.HOLD_TTL / 2:
            raise stock.PlacedTooSlowly
    order.loaded_lines = lines
    return order, True


@transaction.atomic(using="orders")
def place_order_under(*, new: NewOrder, key: str, now: datetime, actor: str = "") -> tuple[Order, bool]:
    """
    Place an order that has an id of its client, as `place_order` does, and keep for which one its `key` was used.

    For endpoints that keep no answer under the key, as `answer_once` does for the others.
    """
    idempotency.wait_for(IdempotencyKey, principal=new.principal, key=key)
    order, is_new = place_order(new=new, now=now, actor=actor, key=key)
    idempotency.keep(IdempotencyKey, principal=new.principal, key=key, order_id=order.order_id)
    return order, is_new


def _method(new: NewOrder) -> str:
    """
    How an order is paid: by invoice where neither an account nor a payer is named.

    :raises NotDuringUpgrade: if the release before does not know it
    """
    if settings.UPGRADING and (new.payment_method == Order.Method.INVOICE or new.capture):
        raise NotDuringUpgrade
    if new.payment_method:
        return new.payment_method
    if new.user_id:
        return Order.Method.ACCOUNT
    return Order.Method.GATEWAY if new.user_email or settings.UPGRADING else Order.Method.INVOICE


def _capture(new: NewOrder, method: str) -> str:
    """
    When the money of an order is taken.

    :raises NothingReserved: if it is to be taken later, and is not paid through a gateway, which could reserve it
    """
    if method != Order.Method.GATEWAY:
        if new.capture:
            raise NothingReserved(
                "Only a gateway can reserve money, to be captured later.",
                errors={"capture": ["This payment method reserves no money."]},
            )
        return Order.Capture.AUTOMATIC
    is_default = not new.capture and settings.CAPTURE_AFTER_PROCESSING and not settings.UPGRADING
    return Order.Capture.AFTER_PROCESSING if is_default else new.capture


NAMED = "WHERE principal = %s AND (order_id = %s OR reference = %s)"


def _give_back_another(hold_id: UUID | None, stored: Order) -> None:
    """Give back what was held here although another attempt has placed the order, whose hold has ended since."""
    if hold_id is not None and hold_id != stored.hold_id:
        Outgoing.post(GiveBack(order_id=stored.order_id, hold_id=str(hold_id)))


def _stored(new: NewOrder, *, key: str | None, now: datetime, exclusive: bool = False) -> Order | None:
    """
    The order that was placed under the same id or key.

    An `exclusive` call waits for one that is being placed at this moment; until its transaction ends, nobody else
    places one.

    :raises OrderExists: if another order of this principal has the id
    :raises KeyReused: if another order was placed under the key
    """
    if new.order_id is not None:
        # Note [Order ids are names]: the id that a client gives is unique for this client alone, and nobody learns from
        # an answer which ids others use. So it is stored as a reference, and the order gets an id of ours. An order
        # from before that, and one without a client, which can only be where the API is open, have it as their key.
        # During an upgrade an order still gets it as its key, if that is free, since processes of the release before
        # find it by nothing else; and everybody waits for the lock that they know.
        turn = new.order_id if exclusive else ""
        under_key = _meant_by(key, principal=new.principal, now=now, exclusive=exclusive) if key is not None else set()
        if new.principal:
            if exclusive and not settings.UPGRADING:
                turn = f"order {new.order_id!r} of {new.principal!r}"
            stored = _found(NAMED, new.principal, new.order_id, new.order_id, turn=turn)
        else:
            stored = _found("WHERE order_id = %s", new.order_id, turn=turn)
        if stored is not None and stored.fingerprint != new.fingerprint:
            raise OrderExists(
                f"There is another order {new.order_id}.", errors={"order_id": ["Another order has this id."]}
            )
        if under_key - {stored and stored.order_id}:
            raise KeyReused("This key was already used for another request.")
        return stored
    if key is not None:
        stored = placed_under(key, principal=new.principal, now=now, exclusive=exclusive)
        if stored is not None and stored.fingerprint != new.fingerprint:
            raise KeyReused("This key was already used for another request.")
        return stored
    return None


# Note [Two ways to find an order by its key]: its id is derived from the key, unless the request named an id itself;
# then it is in what is stored under the key: the answer to that request, or the order alone (`place_order_under`).
MEANT = """
SELECT order_id FROM orders_idempotencykey WHERE principal = %s AND key = %s AND order_id <> ''
UNION ALL
SELECT order_id FROM orders_order WHERE order_id = ANY(%s) AND principal = %s AND created_at > %s
"""
PLACED_UNDER = f"WHERE order_id IN ({MEANT}) AND principal = %s"


def placed_under(key: str, *, principal: str, now: datetime, exclusive: bool = False) -> Order | None:
    """
    The order that this principal has placed under this idempotency key, whether over HTTP or over gRPC.

    Keys are forgotten after `IDEMPOTENCY_RETENTION`, and can then be used for another order. An `exclusive` call waits
    for one before it; until its transaction ends, nobody else places an order under the key.
    """
    turn = _turn_of(key, principal=principal) if exclusive else ""
    return _found(PLACED_UNDER, *_meaning(key, principal=principal, now=now), principal, turn=turn)


def _meaning(key: str, *, principal: str, now: datetime) -> tuple[Any, ...]:
    """The parameters of `MEANT`, with the ids that an order may have that was placed under a key still remembered."""
    since = now - settings.IDEMPOTENCY_RETENTION
    days = (now.date() - since.date()).days
    order_ids = [id_under(key, principal=principal, day=now.date() - timedelta(day)) for day in range(days + 1)]
    return principal, key, order_ids, principal, since


def _turn_of(key: str, *, principal: str) -> str:
    return f"order under {principal!r} {key!r}"


def _meant_by(key: str, *, principal: str, now: datetime, exclusive: bool) -> set[str]:
    """
    The ids of the orders that this key of this principal stands for: at most one. Whoever waits for the key's turn and
    for that of an id, waits for the key's first.
    """
    if exclusive:
        ROWS.run(locks.turn(_turn_of(key, principal=principal)))
    return {order_id for (order_id,) in ROWS.fetch(MEANT, *_meaning(key, principal=principal, now=now))}


def _found(where: str, *parameters: Any, turn: str) -> Order | None:
    """The order, with its lines, that this finds; with a `turn`, after waiting for the lock of this name."""
    with ROWS.batch() as batch:
        if turn:
            batch.add(locks.turn(turn))
        found = batch.add(Statement(f"SELECT FROM orders_order {where}", parameters))
    if not batch.touched[found]:
        return None
    order = ROWS.first(Order, where, *parameters)
    if order is not None:
        prefetch_related_objects([order], LOADED_LINES)
    return order


def id_of_reference(reference: str, *, principal: str, day: date) -> str:
    """The id of the order that this principal names so and places on this day: the same for every attempt."""
    return derived_id("orders.reference", reference, principal=principal, day=day)


def id_under(key: str, *, principal: str, day: date) -> str:
    """The id of the order that is placed under this idempotency key on this day: the same for every attempt."""
    return derived_id("orders.order_id", key, principal=principal, day=day)


def derived_id(kind: str, name: str, *, principal: str, day: date) -> str:
    """
    An id that nobody else can foresee.

    # Note [A day, not a moment]: the time in a UUIDv7 must be the same for each attempt, so it is the day's beginning.
    # An attempt after midnight gets another id; what a crash before midnight left behind then waits for its expiry.
    """
    midnight = datetime.combine(day, time(), tzinfo=UTC)
    secret = salted_hmac(kind, json.dumps([principal, name, midnight.isoformat()]), algorithm="sha256")
    return str(ids.uuid7_from(secret.digest(), at=midnight))


def _by_line(
    refusal: stock.InsufficientStock, ordered: tuple[Line, ...], lines: list[OrderLine]
) -> stock.InsufficientStock:
    """The refusal with its errors at the lines of the request that lack stock."""
    lacking = {one.product_id: one for one in refusal.lacking}
    for number, line in enumerate(lines):
        if one := lacking.get(str(line.product_id)):
            refusal.errors[f"items[{number}].quantity"] = [f"{one.requested} asked for, {one.available} left."]
    return refusal


def with_lines(orders: QuerySet[Order]) -> QuerySet[Order]:
    """These orders, each read with its lines."""
    return orders.prefetch_related(LOADED_LINES)  # type: ignore[no-redef]  # the plugin declares the attribute again


# Reading ------------------------------------------------------------------------------------------------------------


def orders_of(principal: Principal) -> QuerySet[Order]:
    """The orders that this principal may see, with their lines."""
    return with_lines(principal.own(Order.objects.all()))


def expand(orders: Collection[Order], names: Collection[str]) -> None:
    """
    Read what these names of `EXPANDABLE` stand for together with these orders.

    :raises archive.HistoryDetached: if a history is in a month that is not attached
    """
    if "events" in names:
        histories = archive.histories(orders)
        for order in orders:
            order.loaded_events = histories[order.pk]


def stored_id(order_id: str, *, principal: Principal, to_change: bool = False) -> str:
    """
    The id under which an order is stored that this principal knows by this one; of several, the newest is shown.

    :raises AmbiguousOrder: if it is `to_change`, and there are several
    """
    if not principal.name:
        return order_id
    named = Order.objects.filter(Q(pk=order_id) | Q(reference=order_id)).order_by("-created_at")
    found = list(principal.own(named).values_list("pk", flat=True)[:MAX_NAMESAKES])
    if not found or order_id in found:
        return order_id
    if to_change and len(found) > 1:
        raise AmbiguousOrder(order_id, found)
    return found[0]


def get_order(*, order_id: str, principal: Principal, to_change: bool = False) -> Order:
    """
    One order, with its lines.

    :raises NoSuchOrder: if there is none that this principal may see
    :raises AmbiguousOrder: if it is `to_change`, and several clients have one of this id
    """
    stored = stored_id(order_id, principal=principal, to_change=to_change)
    order = orders_of(principal).filter(pk=stored).first()
    if order is None:
        raise NoSuchOrder("There is no such order.")
    return order


# Canceling ----------------------------------------------------------------------------------------------------------


@transaction.atomic(using="orders")
def cancel_order(
    *,
    order_id: str,
    now: datetime,
    principal: Principal | None = None,
    reason: str = "",
    versions: Collection[int] | None = None,
) -> Order:
    """
    Turn an order back and return it, with its lines. Its status is `canceled` once its stock and money are back.

    :param principal: who cancels it; without one, the system itself does
    :param reason: kept in its history; staff must give one
    :param versions: cancel the order only if it is at one of these versions

    :raises NoSuchOrder: if there is none that this principal may see
    :raises AmbiguousOrder: if several clients have one of this id
    :raises transitions.OutOfTurn: if it is done or has failed
    :raises transitions.VersionConflict: if it is at another version
    :raises ReasonMissing: if staff give no reason
    :raises NeedsSecondPerson: if it is paid, and staff may not give its money back alone
    """
    by = Authority.of(principal) if principal else SYSTEM
    by.justify(reason)
    try:
        stored = stored_id(order_id, principal=principal, to_change=True) if principal else order_id
        order = transitions.lock(stored)
    except Order.DoesNotExist:
        raise NoSuchOrder("There is no such order.") from None
    if principal is not None and not principal.sees(order):
        raise NoSuchOrder("There is no such order.")
    if versions is not None and order.version not in versions:
        raise transitions.VersionConflict(order)
    event = saga.CancelRequested(repair.CANCELED_BY_OPERATOR) if by.is_staff else saga.CancelRequested()
    transitions.apply(event, order, now=now, by=by, note=reason)
    prefetch_related_objects([order], LOADED_LINES)
    return order


# Capturing ----------------------------------------------------------------------------------------------------------


@transaction.atomic(using="orders")
def capture_order(
    *,
    order_id: str,
    amount: int | None,
    by: Authority,
    now: datetime,
    reason: str = "",
    versions: Collection[int] | None = None,
) -> Order:
    """
    Have the money taken that is reserved for an order, or this much of it, and return the order, with its lines.

    :param order_id: as it is stored: see `stored_id`

    :raises CaptureExceedsAuthorized: if less is reserved
    :raises transitions.OutOfTurn: if nothing is reserved, or not any more
    :raises transitions.VersionConflict: if it is at another version
    :raises ReasonMissing: if staff give no reason
    :raises NeedsSecondPerson: if staff may not take this amount alone
    """
    by.justify(reason)
    order = transitions.lock(order_id)
    if versions is not None and order.version not in versions:
        raise transitions.VersionConflict(order)
    if amount is not None and amount > order.total:
        reserved = money.text(order.total, currency=order.currency)
        raise CaptureExceedsAuthorized(
            _g("Only %(amount)s is reserved.") % {"amount": reserved},
            errors={"amount": [_g("%(amount)s is reserved.") % {"amount": reserved}]},
        )
    event = saga.CaptureRequested(order.total if amount is None else amount)
    transitions.apply(event, order, now=now, by=by, note=reason)
    prefetch_related_objects([order], LOADED_LINES)
    return order
