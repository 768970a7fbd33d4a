"""What was told of orders that orders itself has forgotten: by its events, and by the other services."""

from collections.abc import Collection, Iterator
from datetime import datetime

from django.conf import settings

from common.batches import in_batches
from common.errors import Refusal
from orders import rebuilding, repair
from orders.messages import DeliverWebhook, Overdue
from orders.models import ENDS, Order
from orders.models import Refund as Asked
from orders.rebuilding import CREATED, Told
from outbox import clock, forgotten, lost, stream
from outbox.broker import LOST
from outbox.consumers import CONSUMERS, deliver
from outbox.deliveries import Delivery
from outbox.envelope import Envelope
from outbox.errors import CodedError
from outbox.services import model_of
from payments.messages import Charge
from payments.models import Refund
from processing.messages import Process

from .report import AGAIN, ASKED, PLACED, TOLD, Decision, Missing, Report

OTHERS = tuple(one for one in settings.SERVICES if one != "orders")
OWN = frozenset({Overdue.name, DeliverWebhook.name})  # what orders sends to itself
SOURCE = "/orders"


def settle(missing: Missing, *, since: datetime, dry_run: bool, report: Report) -> None:
    """
    Have orders be what was told of them since then, handle what they were sent, and ask again for what they wait for.

    # Note [Twice through the stream]: several relays publish side by side, so an order may be told of before it was
    # placed. The whole stream in memory would be without bound.
    """
    changed: set[str] = set()
    _place_again(since, changed, report=report)
    _bring_forward(since, changed, report=report)
    _handle(missing, changed, report=report)
    _find_unplaced(since, report=report)
    _ask_for_refunds(since, report=report)
    _repeat(changed - report.held_back)


# What it has told ---------------------------------------------------------------------------------------------------


def _place_again(since: datetime, changed: set[str], *, report: Report) -> None:
    for events in _events(since, of_new_orders=True):
        highest = 0
        for event in rebuilding.unknown(events):
            try:
                order = rebuilding.place_again(Told(event), now=clock.now("orders"))
            except Refusal as refusal:
                report.leave(event.subject, refusal)
                continue
            report.done[TOLD] += 1
            if order is not None:
                report.done[PLACED] += 1
                changed.add(order.order_id)
                highest = max(highest, order.number or 0)
        if highest:
            rebuilding.count_past(highest)


def _bring_forward(since: datetime, changed: set[str], *, report: Report) -> None:
    for events in _events(since, of_new_orders=False):
        unknown = rebuilding.unknown(events)
        causes = _causes(unknown)
        for event in unknown:
            told = Told(event, causes.get(event.causationid or "", ""))
            try:
                order = rebuilding.bring_forward(told, now=clock.now("orders"))
            except Refusal as refusal:
                report.leave(event.subject, refusal)
                continue
            report.done[TOLD] += 1
            if order.status in ENDS:
                changed.discard(order.order_id)
            else:
                changed.add(order.order_id)


def _events(since: datetime, *, of_new_orders: bool) -> Iterator[list[Envelope]]:
    """Yield the events of orders since then, some at a time: that they were placed, or what became of them."""
    now = clock.now("orders")
    selection = stream.Selection(since=since)
    for kept in _kept(now, stream.start_of(selection, None)):
        ours = [Envelope.parse(one.event) for one in kept if one in selection and one.event.get("source") == SOURCE]
        yield [one for one in ours if (one.type == CREATED) == of_new_orders]


def _kept(now: datetime, start: stream.Start) -> Iterator[list[stream.Kept]]:
    try:
        yield from stream.kept_until(now, start=start)
    except LOST as error:
        raise stream.StreamError(f"The broker, whose stream has the events, cannot be reached: {error}") from error


def _causes(events: Collection[Envelope]) -> dict[str, str]:
    """Return the types of the messages of other services that these events followed from, by id."""
    asked = [one.causationid for one in events if one.causationid]
    return {
        str(message_id): kind
        for service in OTHERS
        for message_id, kind in model_of(service, "Outgoing").objects.filter(pk__in=asked).values_list("pk", "type")
    }


# What it was told ---------------------------------------------------------------------------------------------------


def _handle(missing: Missing, changed: set[str], *, report: Report) -> None:
    """
    Handle what the others have sent it, in an order that its table allows.

    # Note [Until nothing more can be handled]: one service may have answered what followed from the answer of another,
    # whose clock differs. What is refused for now is tried again after the others.
    """
    while True:
        refused: dict[str, str] = {}
        handled = 0
        for batch in in_batches(one for one in missing() if one.type not in OWN):
            for one, envelope in _read(batch):
                try:
                    _deliver(envelope)
                except (CodedError, Refusal, Order.DoesNotExist) as refusal:
                    refused[one.subject] = (
                        _unplaced(one.type)
                        if isinstance(refusal, Order.DoesNotExist)
                        else f"{one.type} cannot be handled: {refusal}"
                    )
                else:
                    handled += 1
                    changed.add(one.subject)
        report.done[AGAIN] += handled
        if not handled:
            break
    for order_id, why in refused.items():
        report.leave(order_id, why)


def _read(batch: Collection[lost.Sent]) -> Iterator[tuple[lost.Sent, Envelope]]:
    for sender in {one.sender for one in batch}:
        sent = {one.row_id: one for one in batch if one.sender == sender}
        for row in model_of(sender, "Outgoing").objects.filter(pk__in=sent).order_by("pk"):
            yield sent[row.pk], row.envelope()


def _deliver(envelope: Envelope) -> None:
    delivery = Delivery("orders", envelope.as_dict(), {}, "recover")
    deliver(CONSUMERS[envelope.type], envelope, envelope.message(), delivery)


def _unplaced(what: str) -> str:
    return f"{what} is about it, and {rebuilding.NO_ORIGIN}; if it does not, give back what manage.py audit names"


def _find_unplaced(since: datetime, *, report: Report) -> None:
    """Leave the orders to a person that were begun elsewhere, and of which no event tells."""
    sent = forgotten.find(OTHERS, settings.SERVICES, since=since, until=clock.now("orders"))
    for batch in in_batches(one for one in sent if one.type in (Charge.name, Process.name)):
        begun = {one.subject: one.type for one in batch}
        placed = set(Order.objects.filter(pk__in=begun).values_list("pk", flat=True))
        for order_id in begun.keys() - placed:
            report.leave(order_id, _unplaced(begun[order_id]))


# What it waits for --------------------------------------------------------------------------------------------------


def _ask_for_refunds(since: datetime, *, report: Report) -> None:
    """Know refunds again that payments was asked for and that have not ended, which no event tells of."""
    open_ones = Refund.objects.filter(created_at__gte=since, is_foreign=False, status__in=Refund.OPEN)
    for batch in in_batches(open_ones.order_by("created_at", "refund_id").iterator()):
        known = set(Asked.objects.filter(pk__in=[one.pk for one in batch]).values_list("pk", flat=True))
        for refund in batch:
            if refund.pk in known or refund.payment_id in report.held_back:
                continue
            try:
                may_restock = rebuilding.ask_again(
                    order_id=refund.payment_id,
                    refund_id=refund.refund_id,
                    amount=refund.amount,
                    currency=refund.currency,
                    reason=refund.reason,
                    asked_at=refund.created_at,
                    now=clock.now("orders"),
                )
            except Refusal as refusal:
                report.leave(refund.payment_id, refusal)
                continue
            report.done[ASKED] += 1
            if may_restock:
                what = "on its way, and nobody knows for which lines: if they come back, receive their stock"
                report.decisions.append(Decision(f"refund {refund.pk} of order {refund.payment_id}", what))


def _repeat(order_ids: Collection[str]) -> None:
    """Ask again for what these orders wait for: nobody knows whether the request had left."""
    for batch in in_batches(sorted(order_ids)):
        for order in Order.objects.filter(pk__in=batch).exclude(status__in=ENDS):
            if repair.last_request(order) is not None:
                repair.repeat_request(order_id=order.order_id)
