"""What every service has of one order, as tables. A service that can't be asked says so, and the others still answer."""

from collections.abc import Callable, Iterator
from typing import Any

from django.conf import settings
from django.db import Error
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.admin import display as show
from common.admin.panels import Panel, panel
from orders.models import Order
from outbox.consumers import model_of
from payments.models import Entry, Payment
from processing.models import Hold, Processing

MOST = 100
METHODS = dict(Order.Method.choices)


def panels_of(order: Order) -> list[Panel]:
    """Items, money, stock, messages and dead letters of an order."""
    return [
        _asked(_("Items"), lambda: _items(order)),
        _asked(_("Money"), lambda: _money(order)),
        _asked(_("Stock"), lambda: _stock(order)),
        _asked(_("Dead letters"), lambda: _dead(order)),
    ]


def _asked(title: Any, ask: Callable[[], Panel]) -> Panel:
    try:
        return ask()
    except Error as error:
        return Panel(
            title, (), (), empty=_g("This database is not answering (%(error)s).") % {"error": type(error).__name__}
        )


def _items(order: Order) -> Panel:
    return panel(
        order.lines.all(),
        (_("product"), _product),
        (_("quantity"), lambda line: line.quantity),
        (_("unit price"), lambda line: show.money_text(line.unit_price, order.currency)),
        (_("sum"), lambda line: show.money_text(line.unit_price * line.quantity, order.currency)),
        title=_("Items"),
    )


def _product(line: Any) -> Any:
    words = " ".join(filter(None, [line.name, f"({line.sku})" if line.sku else ""])) or _g("free line")
    return show.page_link("processing", "product", line.product_id, words) if line.product_id else words


def _money(order: Order) -> Panel:
    payment = Payment.objects.filter(pk=order.pk).first()
    rows: list[list[Any]] = []
    if payment is not None:
        by = payment.gateway or METHODS.get(payment.method, payment.method)
        what = show.page_link("payments", "payment", payment.pk, _g("payment"))
        amount = show.money_text(payment.amount, payment.currency)
        rows.append([what, payment.get_status_display(), amount, by or show.NOTHING, show.ago(payment.updated_at)])
    for entry in Entry.objects.filter(order_id=order.pk).select_related("source", "target").order_by("id")[:MOST]:
        what = show.page_link("payments", "entry", entry.pk, entry.get_kind_display())
        amount = show.money_text(entry.amount, entry.currency)
        rows.append([what, _g("booked"), amount, f"{entry.source} → {entry.target}", show.ago(entry.at)])
    heads = (_("what"), _("status"), _("amount"), _("between"), _("at"))
    return Panel(_("Money"), heads, rows, empty=_("Payments has not heard of this order yet."))


def _stock(order: Order) -> Panel:
    rows: list[list[Any]] = [
        [
            show.page_link("processing", "hold", hold.pk, _g("hold")),
            hold.get_status_display(),
            ", ".join(f"{line.quantity} × {line.product.sku}" for line in hold.lines.all()),
            show.ago(hold.ended_at or hold.created_at),
        ]
        for hold in Hold.objects.filter(order_id=order.pk).prefetch_related("lines__product").order_by("pk")[:MOST]
    ]
    verdict = Processing.objects.filter(pk=order.pk).first()
    if verdict is not None:
        words = " ".join(filter(None, [verdict.get_verdict_display(), verdict.reason]))
        rows.append([_g("processing"), words, show.NOTHING, show.ago(verdict.at)])
    heads = (_("what"), _("status"), _("items"), _("at"))
    return Panel(_("Stock"), heads, rows, empty=_("No stock is held for it: it has free lines only."))


def _dead(order: Order) -> Panel:
    rows = list(_dead_letters(order))
    heads = (_("letter"), _("service"), _("status"), _("error"), _("died"))
    return Panel(_("Dead letters"), heads, rows, empty=_("None of its letters has died."))


def _dead_letters(order: Order) -> Iterator[list[Any]]:
    for service in settings.SERVICES:
        letters = model_of(service, "DeadLetter").objects.filter(subject=order.pk).defer("traceback", "headers", "body")
        for letter in letters.order_by("-id")[:MOST]:
            link = show.page_link(service, "deadletter", letter.pk, letter.type or "?")
            yield [link, service, letter.get_status_display(), letter.error[:200], show.ago(letter.died_at)]
