"""
A list of the admin as a CSV file: its rows as they are filtered, in the columns that are chosen.

# Note [Pages, not a cursor]: a cursor of the server needs a connection of its own, which PgBouncer does not give. The
file is read by keys instead, as the pages of the list are: each query takes a moment and has the usual time limit.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import FieldDoesNotExist, PermissionDenied
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.text import capfirst
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from .. import tables
from . import list_queries, urls
from .actions import write_log

if TYPE_CHECKING:
    from .pages import KeysetChangeList

ROWS = 1000  # of a query
MAX_SECONDS = 600.0
BOM = "\ufeff"


@dataclass(frozen=True)
class Column:
    """A column of the file: its name, what people call it, and its text for a row."""

    name: str
    label: Any
    text: Callable[[Any], str]


class ExportForm(forms.Form):
    """Asks for the columns."""

    columns = forms.MultipleChoiceField(label=_("Columns"), widget=forms.CheckboxSelectMultiple)
    with_bom = forms.BooleanField(
        label=_("For Excel"),
        required=False,
        help_text=_("Marks the file as UTF-8, so that Excel shows all characters. Other programs do not need it."),
    )

    def __init__(self, data: Any, *, columns: dict[str, Column], initial: list[str]) -> None:
        super().__init__(data, initial={"columns": initial}, label_suffix="")
        self.fields["columns"].choices = [(one.name, capfirst(str(one.label))) for one in columns.values()]  # type: ignore[attr-defined]


class ExportPages:
    """For a model admin with pages by key: its list as a file. Whoever may see the list may have it."""

    def get_urls(self) -> list[URLPattern]:
        here: Any = self
        view = here.admin_site.admin_view(self.export_view)
        return [
            path("export/", view, name=urls.name_of(here.opts, "export")),
            *super().get_urls(),  # type: ignore[misc]
        ]

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """Ask for the columns; then log the export and send the file."""
        here: Any = self
        if not here.has_view_permission(request):
            raise PermissionDenied
        changes = here.get_changelist_instance(request)
        columns = {
            one.name: one for entry in (*here.list_display, *(here.fields or ())) for one in _column(here, entry)
        }
        shown = list(dict.fromkeys(one.name for entry in here.list_display for one in _column(here, entry)))
        form = ExportForm(request.POST if request.method == "POST" else None, columns=columns, initial=shown)
        if form.is_valid():
            chosen = [columns[name] for name in form.cleaned_data["columns"]]
            write_log(request, model=here.model, text=_log_text(request, chosen))
            lines = tables.csv_lines(_rows(changes, chosen))
            return _file(_with_bom(lines) if form.cleaned_data["with_bom"] else lines, name=here.opts.model_name)
        where = urls.url_of(here.opts, "changelist")
        context = {
            **here.admin_site.each_context(request),
            "opts": here.opts,
            "title": _("Export as CSV"),
            "explanation": _("The file has all rows of the list as it is filtered, and not of its first page only."),
            "list_name": capfirst(str(here.opts.verbose_name_plural)),
            "list_url": where,
            "back": f"{where}?{request.GET.urlencode()}",
            "form": form,
        }
        status = 422 if form.errors else 200
        return TemplateResponse(request, "admin/export.html", context, status=status)


def _file(lines: Iterator[str], *, name: str) -> HttpResponseBase:
    disposition = f'attachment; filename="{name}.csv"'
    return StreamingHttpResponse(
        lines, content_type="text/csv; charset=utf-8", headers={"Content-Disposition": disposition}
    )


def _with_bom(lines: Iterator[str]) -> Iterator[str]:
    yield BOM
    yield from lines


def _log_text(request: HttpRequest, chosen: list[Column]) -> str:
    where = list_queries.for_log(list_queries.params_of(request))
    return f"Export as CSV{f' where {where}' if where else ''}. Columns: {', '.join(one.name for one in chosen)}."


def _column(admin: Any, entry: Any) -> Iterator[Column]:
    """The columns that an entry of `list_display` or `fields` stands for: an amount has its currency beside it."""
    about: dict[str, str] = getattr(entry, "exported", {}) if callable(entry) else {"field": entry}
    if (name := about.get("field")) is None:
        if callable(entry) and entry in admin.list_display:
            label = getattr(entry, "short_description", entry.__name__)
            yield Column(entry.__name__, label, lambda row: tables.text_cell(str(entry(row) or "")))
        return
    try:
        field: Any = admin.opts.get_field(name)
    except FieldDoesNotExist:
        return
    label = getattr(entry, "short_description", field.verbose_name)
    if currency := about.get("currency"):
        yield Column(name, label, lambda row: _amount(getattr(row, field.attname), getattr(row, currency)))
        yield Column(currency, admin.opts.get_field(currency).verbose_name, lambda row: getattr(row, currency))
    else:
        yield Column(name, label, lambda row: _text(getattr(row, field.attname)))


def _amount(minor: int | None, currency: str) -> str:
    return "" if minor is None else tables.decimal(minor, currency=currency)


def _text(value: Any) -> str:
    """A value as a program reads it, and as no spreadsheet takes for a formula."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case bytes() | memoryview():
            return tables.text_cell(bytes(value).decode(errors="backslashreplace"))
        case dict() | list():
            return tables.text_cell(json.dumps(value, ensure_ascii=False))
    return tables.text_cell(str(value))


def _rows(changes: "KeysetChangeList", chosen: list[Column]) -> Iterator[list[str]]:
    """The names of the columns, and the rows of the list until the time is up; the last row says so if it is."""
    yield [one.name for one in chosen]
    end = time.monotonic() + MAX_SECONDS
    for rows in changes.all_pages(ROWS, may_lag=True):
        for row in rows:
            yield [one.text(row) for one in chosen]
        if time.monotonic() > end:
            yield [_g("The export ended here, because it took too long. Filter the list by time.")]
            return
