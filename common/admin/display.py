"""How the back office shows things: amounts as people write them, JSON and tracebacks readable, all of it escaped."""

import json as plain_json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.utils import quote
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from .. import money

NOTHING = "–"
STATUS, ORDER = _("status"), _("order")
Shown = Callable[[Any], Any]


def amount(name: str, label: Any, *, currency: str = "currency") -> Shown:
    """A column of minor units, with the currency that another field names."""

    @admin.display(description=label)
    def shown(row: Any) -> SafeString:
        return format_html('<span class="amount">{}</span>', money_text(getattr(row, name), getattr(row, currency)))

    return shown


def money_text(minor: int | None, currency: str) -> str:
    """Minor units as people write them; bare where the currency is none that is configured."""
    if minor is None:
        return NOTHING
    return money.text(minor, currency=currency) if currency in money.EXPONENTS else f"{minor} {currency}".strip()


def bare_amount(minor: int, currency: str) -> str:
    """Minor units as one types them into a form."""
    return money_text(minor, currency).removesuffix(f" {currency}").replace(",", "")


def status(name: str = "status", label: Any = STATUS) -> Shown:
    """A status with its own colour beside its word."""

    @admin.display(description=label, ordering=name)
    def shown(row: Any) -> SafeString:
        word = getattr(row, f"get_{name}_display")()
        return format_html('<span class="status status-{}">{}</span>', getattr(row, name), word)

    return shown


def json(name: str, label: Any) -> Shown:
    """A JSON field or a blob of JSON, laid out."""

    @admin.display(description=label)
    def shown(row: Any) -> SafeString | str:
        return laid_out(getattr(row, name))

    return shown


def laid_out(value: Any) -> SafeString | str:
    """A value as readable JSON; text and bytes that are none, as the text they may be."""
    if isinstance(value, bytes | memoryview | str):
        text = value if isinstance(value, str) else bytes(value).decode(errors="backslashreplace")
        try:
            value = plain_json.loads(text)
        except ValueError:
            return preformatted(text)
    return preformatted(plain_json.dumps(value, indent=2, ensure_ascii=False, default=str)) if value else NOTHING


def text(name: str, label: Any) -> Shown:
    """A text of many lines, as it is."""

    @admin.display(description=label)
    def shown(row: Any) -> SafeString | str:
        value = getattr(row, name)
        return preformatted(value) if value else NOTHING

    return shown


def preformatted(value: str) -> SafeString:
    return format_html('<pre class="readable" tabindex="0">{}</pre>', value)


def order(name: str = "order_id", label: Any = ORDER) -> Shown:
    """A link to the order's page, for a field that holds its id."""

    @admin.display(description=label)
    def shown(row: Any) -> SafeString | str:
        return order_link(getattr(row, name))

    return shown


def order_link(order_id: str) -> SafeString | str:
    return page_link("orders", "order", order_id, order_id) if order_id else NOTHING


def page_link(service: str, model: str, pk: str | UUID, words: object) -> SafeString | str:
    """A link to the page of a row, in whatever service; the words alone where this process has no such page."""
    try:
        url = reverse(f"admin:{service}_{model}_change", args=[quote(pk)])
    except NoReverseMatch:
        return str(words)
    return format_html('<a href="{}">{}</a>', url, words)


def list_url(service: str, model: str, query: str = "") -> str:
    """The address of a list."""
    url = reverse(f"admin:{service}_{model}_changelist")
    return f"{url}?{query}" if query else url


def since(name: str, label: Any) -> Shown:
    """A moment, as how long ago it was; the moment itself is the tooltip and what a reader of screens is told."""

    @admin.display(description=label, ordering=name)
    def shown(row: Any) -> SafeString | str:
        return ago(getattr(row, name))

    return shown


def ago(moment: datetime | None) -> SafeString | str:
    if moment is None:
        return NOTHING
    exact = date_format(timezone.localtime(moment), "DATETIME_FORMAT")
    if abs(timezone.now() - moment) < timedelta(minutes=1):
        words = gettext("just now")
    elif moment > timezone.now():
        words = gettext("in %(time)s") % {"time": timesince(timezone.now(), moment)}
    else:
        words = gettext("%(time)s ago") % {"time": timesince(moment)}
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), exact, words)
