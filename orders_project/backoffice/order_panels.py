"""Tables of what each service stores about an order. If one database is down, the other tables still appear."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from django.conf import settings
from django.db import Error
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common import reasons
from common.admin import display
from common.admin.panels import Panel, panel
from orders.models import Order
from outbox.services import model_of
from payments.models import Dispute, Entry, Payment
from processing.models import Hold, Processing

from .system_health import NOT_REACHABLE

MAX_ROWS = 100
METHODS = dict(Order.Method.choices)


def first_of(order: Order) -> list[Panel]:
    """What was ordered, and the money for it."""
    return [_guarded(_("Items"), lambda: _items(order)), _guarded(_("Money"), lambda: _money(order))]


def others_of(order: Order) -> list[Panel]:
    """Refunds, stock and dead letters of an order."""
    return [
        _guarded(_("Refunds"), lambda: _refunds(order)),
        _guarded(_("Stock"), lambda: _stock(order)),
        _guarded(_("Dead letters"), lambda: _dead(order)),
    ]


def disputes_of(order: Order) -> list[Any]:
    """A link to each dispute about its money; none if the database is down."""
    try:
        found = list(Dispute.objects.filter(payment_id=order.pk).order_by("id")[:MAX_ROWS])
    except Error:
        return []
    return [display.page_link("payments", "dispute", dispute.pk, _dispute(dispute)) for dispute in found]


def _dispute(dispute: Dispute) -> str:
    amount = display.money_text(dispute.amount, dispute.currency)
    return _g("Disputed: %(amount)s, %(status)s") % {"amount": amount, "status": dispute.get_status_display()}


def _guarded(title: Any, build: Callable[[], Panel]) -> Panel:
    try:
        return build()
    except Error:
        return Panel(title, (), (), empty=NOT_REACHABLE)


def _items(order: Order) -> Panel:
    return panel(
        order.lines.all(),
        (_("position"), lambda line: line.position),
        (_("kind"), _kind),
        (_("product"), _product),
        (_("quantity"), lambda line: display.number_text(line.quantity)),
        (_("unit price"), lambda line: display.money_cell(line.unit_price, order.currency)),
        (_("sum"), lambda line: display.money_cell(line.amount, order.currency)),
        title=_("Items"),
    )


def _kind(line: Any) -> Any:
    if line.of_position is None:
        return line.get_kind_display()
    return _g("%(kind)s of %(position)d") % {"kind": line.get_kind_display(), "position": line.of_position}


def _product(line: Any) -> Any:
    text = " ".join(filter(None, [line.name, f"({line.sku})" if line.sku else ""])) or _g("line without a product")
    return display.page_link("processing", "product", line.product_id, text) if line.product_id else text


def _money(order: Order) -> Panel:
    payment = Payment.objects.filter(pk=order.pk).first()
    rows: list[list[Any]] = []
    if payment is not None:
        by = payment.gateway or METHODS.get(payment.method, payment.method)
        what = display.page_link("payments", "payment", payment.pk, _g("payment"))
        amount = display.money_cell(payment.amount, payment.currency)
        status = _with_reason(payment.get_status_display(), payment.refusal or payment.fail_reason)
        rows.append([what, status, amount, by or display.NOTHING, display.moment(payment.updated_at)])
    for entry in Entry.objects.filter(order_id=order.pk).select_related("source", "target").order_by("id")[:MAX_ROWS]:
        what = display.page_link("payments", "entry", entry.pk, entry.get_kind_display())
        amount = display.money_cell(entry.amount, entry.currency)
        rows.append([what, _g("booked"), amount, f"{entry.source} → {entry.target}", display.moment(entry.at)])
    heads = (_("what"), _("status"), _("amount"), _("between"), _("at"))
    return Panel(_("Money"), heads, rows, empty=_("No payment exists for this order yet."))


def _with_reason(status: Any, code: str) -> str:
    """A status with the sentence for its reason, if it has one."""
    return " – ".join(filter(None, [str(status), reasons.explained(code)]))


def _refunds(order: Order) -> Panel:
    named = {line.position: line.sku or line.name or line.position for line in order.lines.all()}
    return panel(
        order.refunds.order_by("refund_id")[:MAX_ROWS],
        (_("refund"), lambda refund: display.page_link("payments", "refund", refund.pk, refund.pk)),
        (_("status"), lambda refund: _with_reason(refund.get_status_display(), refund.fail_code)),
        (_("amount"), lambda refund: display.money_cell(refund.amount, refund.currency)),
        (_("items"), lambda refund: _pieces(refund, named)),
        (_("reason"), lambda refund: refund.reason or display.NOTHING),
        (_("asked for by"), lambda refund: refund.actor or display.NOTHING),
        (_("at"), lambda refund: display.moment(refund.updated_at)),
        title=_("Refunds"),
        empty=_("No part of this order has been refunded. What goes back when it is canceled is under Money."),
    )


def _pieces(refund: Any, named: Mapping[int, Any]) -> Any:
    """Which pieces a refund is of, and whether they go back into stock."""
    pieces = ", ".join(f"{line['quantity']} × {named.get(line['position'], '?')}" for line in refund.lines)
    return " ".join(filter(None, [pieces, _g("(back into stock)") if refund.restock else ""])) or display.NOTHING


def _stock(order: Order) -> Panel:
    rows: list[list[Any]] = [
        [
            display.page_link("processing", "hold", hold.pk, _g("hold")),
            hold.get_status_display(),
            ", ".join(f"{display.number_text(line.quantity)} × {line.product.sku}" for line in hold.lines.all()),
            display.moment(hold.ended_at or hold.created_at),
        ]
        for hold in Hold.objects.filter(order_id=order.pk).prefetch_related("lines__product").order_by("pk")[:MAX_ROWS]
    ]
    verdict = Processing.objects.filter(pk=order.pk).first()
    if verdict is not None:
        text = _with_reason(verdict.get_verdict_display(), verdict.reason)
        rows.append([_g("processing"), text, display.NOTHING, display.moment(verdict.at)])
    heads = (_("what"), _("status"), _("items"), _("at"))
    return Panel(_("Stock"), heads, rows, empty=_("No stock is held for this order: it has no lines with products."))


def _dead(order: Order) -> Panel:
    rows = list(_dead_letters(order))
    heads = (_("message"), _("service"), _("status"), _("error"), _("failed"))
    return Panel(_("Dead letters"), heads, rows, empty=_("No message about this order is a dead letter."))


def _dead_letters(order: Order) -> Iterator[list[Any]]:
    for service in settings.SERVICES:
        found = model_of(service, "DeadLetter").objects.filter(subject=order.pk).defer("traceback", "headers", "body")
        for dead_letter in found.order_by("-id")[:MAX_ROWS]:
            link = display.page_link(service, "deadletter", dead_letter.pk, dead_letter.type or "?")
            yield [
                link, service, dead_letter.get_status_display(),
                f"{reasons.in_words(dead_letter.reason)} {dead_letter.error[:200]}",
                display.moment(dead_letter.died_at),
            ]  # fmt: skip
