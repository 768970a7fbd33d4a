"""How the admin displays values: amounts, readable JSON and tracebacks, links and times; all of it escaped."""

import json as plain_json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.utils import quote
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.formats import date_format, number_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.timesince import timesince
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from outbox import strict_json

from .. import money, reasons
from . import conf

NOTHING = "–"
MINUTE = timedelta(minutes=1)
STATUS, ORDER = _("status"), _("order")
Shown = Callable[[Any], Any]


def _of_field(shown: Shown, name: str, **more: str) -> Shown:
    """Say which field a column shows, for the file that is made of a list: see export.py."""
    shown.exported = {"field": name, **more}  # type: ignore[attr-defined]
    return shown


def field_shown(column: Any) -> str:
    """The field that a column of a list shows; empty if it shows something else."""
    return column if isinstance(column, str) else getattr(column, "exported", {}).get("field", "")


def amount(name: str, label: Any, *, currency: str = "currency") -> Shown:
    """A column of an amount in minor units, with the currency in another field."""

    @admin.display(description=label)
    def shown(row: Any) -> SafeString:
        return money_cell(getattr(row, name), getattr(row, currency))

    return _of_field(shown, name, currency=currency)


def money_text(minor: int | None, currency: str) -> str:
    """Minor units as text; the bare number if the currency is unknown."""
    if minor is None:
        return NOTHING
    return money.text(minor, currency=currency) if currency in money.EXPONENTS else f"{minor} {currency}".strip()


def money_cell(minor: int | None, currency: str) -> SafeString:
    """The same in a cell of a table: in one line."""
    return format_html('<span class="amount">{}</span>', money_text(minor, currency))


def number_text(number: int) -> str:
    """A whole number, as the language of the page groups its digits."""
    return number_format(number, force_grouping=True)


def number(name: str, label: Any) -> Shown:
    """A column of a whole number."""

    @admin.display(description=label)
    def shown(row: Any) -> SafeString | str:
        value = getattr(row, name)
        return NOTHING if value is None else format_html('<span class="amount">{}</span>', number_text(value))

    return _of_field(shown, name)


def words(name: str, label: Any, texts: Mapping[Any, Any]) -> Shown:
    """A column of a value for which there are words."""

    @admin.display(description=label)
    def shown(row: Any) -> str:
        value = getattr(row, name)
        return str(texts.get(value, value))

    return _of_field(shown, name)


def flag(name: str, label: Any) -> Shown:
    """A column of yes or no, in words: "no" is no failure."""
    return words(name, label, {True: _("yes"), False: _("no")})


def status(name: str = "status", label: Any = STATUS) -> Shown:
    """A column of a status, with a mark in its color."""

    @admin.display(description=label, ordering=name)
    def shown(row: Any) -> SafeString:
        text = getattr(row, f"get_{name}_display")()
        return format_html('<span class="status status-{}">{}</span>', getattr(row, name), text)

    return _of_field(shown, name)


def json(name: str, label: Any) -> Shown:
    """A column of a JSON field, or of bytes that hold JSON, indented."""

    @admin.display(description=label)
    def shown(row: Any) -> SafeString | str:
        return laid_out(getattr(row, name))

    return _of_field(shown, name)


def laid_out(value: Any) -> SafeString | str:
    """A value as indented JSON; text or bytes that aren't JSON, or are nested too deeply to be laid out, as text."""
    if isinstance(value, bytes | memoryview | str):
        text = value if isinstance(value, str) else bytes(value).decode(errors="backslashreplace")
        try:
            value = strict_json.parse(text)
        except ValueError:
            return preformatted(text)
    return preformatted(plain_json.dumps(value, indent=2, ensure_ascii=False, default=str)) if value else NOTHING


def text(name: str, label: Any) -> Shown:
    """A column of text with several lines."""

    @admin.display(description=label)
    def shown(row: Any) -> SafeString | str:
        value = getattr(row, name)
        return preformatted(value) if value else NOTHING

    return _of_field(shown, name)


def preformatted(value: str) -> SafeString:
    return format_html('<pre class="readable" tabindex="0">{}</pre>', value)


def order(name: str = "order_id", label: Any = ORDER) -> Shown:
    """A column of a link to the page of an order, for a field that holds its id."""

    @admin.display(description=label)
    def shown(row: Any) -> SafeString | str:
        return order_link(getattr(row, name))

    return _of_field(shown, name)


def order_link(order_id: str) -> SafeString | str:
    """A link to the page of an order."""
    return _link(conf.subject_page(), order_id, order_id) if order_id else NOTHING


def page_link(service: str, model: str, pk: str | UUID, text: object) -> SafeString | str:
    """A link to the page of a row of any service."""
    return _link(f"admin:{service}_{model}_change", pk, text)


def _link(page: str, pk: str | UUID, text: object) -> SafeString | str:
    """A link to a page of the admin; the text alone where this process has no such page."""
    try:
        url = reverse(page, args=[quote(pk)])
    except NoReverseMatch:
        return str(text)
    return format_html('<a href="{}">{}</a>', url, text)


def list_url(service: str, model: str, query: str = "") -> str:
    """The URL of a list, with a query."""
    url = reverse(f"admin:{service}_{model}_changelist")
    return f"{url}?{query}" if query else url


def explained_status(name: str = "status", label: Any = STATUS) -> Shown:
    """A field of a page: a status, with its mark and the sentence that says what it means."""
    marked = status(name, label)

    @admin.display(description=label)
    def shown(row: Any) -> SafeString:
        meaning = reasons.of_status(row._meta.concrete_model._meta.label_lower, getattr(row, name))
        return format_html("{} – {}", marked(row), meaning) if meaning else marked(row)

    return _of_field(shown, name)


def reason(name: str, label: Any, *, explained: bool = False) -> Shown:
    """A column of the code of a reason, with its sentence as a tooltip or, where it is `explained`, beside it."""

    @admin.display(description=label)
    def shown(row: Any) -> SafeString | str:
        code = getattr(row, name)
        words = reasons.in_words(code)
        if explained or words == code:
            return reasons.explained(code) or NOTHING
        parts = format_html_join(mark_safe("_<wbr>"), "{}", ((part,) for part in code.split("_")))
        return format_html('<abbr title="{}">{}</abbr>', words, parts)

    return _of_field(shown, name)


def at(name: str, label: Any) -> Shown:
    """A column of a time."""

    @admin.display(description=label, ordering=name)
    def shown(row: Any) -> SafeString | str:
        return moment(getattr(row, name))

    return _of_field(shown, name)


def moment(at: datetime | None) -> SafeString | str:
    """A time as every table and field shows it, in the zone of the page; how long ago it was, as its tooltip."""
    if at is None:
        return NOTHING
    return format_html('<time datetime="{}" title="{}">{}</time>', at.isoformat(), _distance(at), time_text(at))


def time_text(at: datetime) -> str:
    """A time in the zone of the page."""
    return date_format(timezone.localtime(at), "DATETIME_FORMAT")


def time_of_day(at: datetime) -> str:
    """A time within a sentence: of today without the day."""
    local = timezone.localtime(at)
    return date_format(local, "TIME_FORMAT" if local.date() == timezone.localdate() else "DATETIME_FORMAT")


def ago(at: datetime | None) -> SafeString | str:
    """A time within a sentence: how long ago it was or how far ahead it is, and when that is."""
    if at is None:
        return NOTHING
    return format_html('{} (<time datetime="{}">{}</time>)', _distance(at), at.isoformat(), time_of_day(at))


def _distance(at: datetime) -> str:
    now = timezone.now()
    if at > now:
        return (
            gettext("within a minute") if at - now < MINUTE else gettext("in %(time)s") % {"time": timesince(now, at)}
        )
    return gettext("just now") if now - at < MINUTE else gettext("%(time)s ago") % {"time": timesince(at, now)}
