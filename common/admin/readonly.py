"""Read-only admin pages: list a table, search it by its indexes, and change it only through actions."""

import operator
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import FieldDoesNotExist
from django.db import router
from django.db.models import BigIntegerField, Model, Q, QuerySet, UUIDField
from django.http import HttpRequest
from django.utils.text import Truncator, format_lazy
from django.utils.translation import gettext_lazy as _

from ..search import PartIndex, Texts, beginning, has_parts
from . import display
from .actions import ActionPages
from .bulk_rows import BulkPages
from .export import ExportPages
from .pages import KeysetChangeList
from .panels import Panel

NUMBER = re.compile("#?[0-9]{1,18}")
TITLE_LENGTH = 120  # characters


class ReadOnlyMixin:
    """What read-only model admins and inlines have in common: nobody adds, changes or deletes rows by hand."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnlyAdmin(ActionPages, BulkPages, ExportPages, ReadOnlyMixin, admin.ModelAdmin):
    """
    A table that only the system writes.

    `order` is the ordering of its pages (see common/keyset.py), `search_by` names the indexed fields that the search
    box compares with the whole term, `search_beginnings` those that may begin with it, in any case, and `part_fields`
    those of which it may be any part, by the index `search_parts` (see common/search.py). `sorts` has the ascending
    orderings, each with an index, of the fields that one may sort by, and `empty` is the text of an empty list.
    """

    order: tuple[str, ...] = ("-pk",)
    search_by: tuple[str, ...] = ()
    search_beginnings: tuple[str, ...] = ()
    search_parts: PartIndex | None = None
    part_fields: tuple[str, ...] = ()
    empty: Any = ""
    list_per_page = 50
    list_max_show_all = 0
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    sorts: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    fields: ClassVar[Any] = None

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[KeysetChangeList]:
        return KeysetChangeList

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        return self.order

    def get_sortable_by(self, request: HttpRequest) -> list[Any]:
        return [column for column in self.list_display if display.field_shown(column) in self.sorts]

    def on_one_page(self, request: HttpRequest) -> bool:
        """Whether the page shows one row. A list can leave the large fields out."""
        return request.resolver_match is not None and "object_id" in request.resolver_match.kwargs

    def get_search_fields(self, request: HttpRequest) -> tuple[str, ...]:
        return (*self.search_by, *self.search_beginnings)

    @property
    def search_help_text(self) -> Any:  # type: ignore[override]
        texts = [format_lazy(_("Enter the whole value of: {names}."), names=self._names_of(self.search_by))]
        if self.search_parts is not None and self.search_parts.is_there(router.db_for_read(self.model)):
            part = _("Or a part of: {names}, of three characters or more.")
            texts.append(format_lazy(part, names=self._names_of(self.part_fields)))
        if self.search_beginnings:
            texts.append(format_lazy(_("Or the beginning of: {names}."), names=self._names_of(self.search_beginnings)))
        return format_lazy(" ".join(["{}"] * len(texts)), *texts)

    def _names_of(self, fields: Sequence[str]) -> Any:
        return format_lazy(", ".join(["{}"] * len(fields)), *map(self._name_of, fields))

    def _name_of(self, field: str) -> Any:
        try:
            return self.opts.get_field(field).verbose_name  # type: ignore[union-attr]
        except FieldDoesNotExist:
            return field

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return queryset, False  # KeysetChangeList searches

    def search_conditions(self, term: str) -> list[Q]:
        """The conditions that find a term, one for each field that could hold it; all rows without a term."""
        if not (term := term.strip()):
            return [Q()]
        return self.named_conditions(term) + [
            Q(**{f"{name}__iexact": term}) for name in self.search_beginnings if "\0" not in term
        ]

    def named_conditions(self, term: str) -> list[Q]:
        """The conditions that find what has this term as its own name, such as a number."""
        term = term.strip()
        return [self.search_condition(name, term) for name in self.search_by if _fits(self.model, name, term)]

    def search_condition(self, name: str, term: str) -> Q:
        if isinstance(self.model._meta.get_field(name), BigIntegerField):
            term = term.removeprefix("#")
        return Q(**{name: term})

    def wide_searches(self, rows: QuerySet[Any], term: str) -> list[QuerySet[Any]]:
        """More ways to find a term among these rows, each by an index, and perhaps in very many of them."""
        if not (term := term.strip()) or "\0" in term:
            return []
        if self.search_parts is not None and self.search_parts.helps(term, using=rows.db):
            return self.parts_found(rows, term)
        return self.beginnings_found(rows, term)

    def parts_found(self, rows: QuerySet[Any], term: str) -> list[QuerySet[Any]]:
        """The rows with this term anywhere in the texts of `search_parts`."""
        return [rows.filter(has_parts(self.search_parts.texts, term))] if self.search_parts else []

    def beginnings_found(self, rows: QuerySet[Any], term: str) -> list[QuerySet[Any]]:
        """The rows with a text that begins with this term."""
        return [beginning(rows, name, term) for name in self.search_beginnings]

    def search_anywhere(self, term: str) -> Q:
        """The condition that finds a term in a row by any of these ways, where few rows are looked through."""
        anywhere = has_parts(Texts(*self.part_fields), term) if self.part_fields else Q()
        return reduce(operator.or_, self.search_conditions(term), anywhere)

    def response_action(self, request: HttpRequest, queryset: QuerySet[Any], *where: Any) -> Any:
        """Act on the selected rows only."""
        selected = request.POST.getlist(ACTION_CHECKBOX_NAME)
        return super().response_action(request, queryset.filter(pk__in=selected), *where)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        return super().changelist_view(request, {"page_actions": self.action_links(request), **(extra_context or {})})

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        row = context.get("original")
        context |= {
            "page_actions": self.action_links(request, row) if row is not None else [],
            "title": Truncator(self.title_of(row)).chars(TITLE_LENGTH),
        }
        context |= {"subtitle": None, "panels": self.panels_for(request, row) if row is not None else []}
        return super().render_change_form(request, context, *args, **kwargs)

    def title_of(self, row: Any) -> str:
        """The title of the page of a row."""
        return str(row)

    def panels_for(self, request: HttpRequest, row: Any) -> Sequence[Panel]:
        """Tables of what belongs to this row, shown below it."""
        return ()

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.fields or ()


class ReadOnlyInline(ReadOnlyMixin, admin.TabularInline):
    """Rows of another table of the service, on the page of the row they belong to."""

    extra = 0
    max_num = 0
    can_delete = False
    show_change_link = True


def _fits(model: type[Model], name: str, term: str) -> bool:
    """Whether the field could hold this term."""
    field = model._meta.get_field(name)
    if isinstance(field, BigIntegerField):
        return bool(NUMBER.fullmatch(term))
    if not isinstance(getattr(field, "target_field", field), UUIDField):
        return "\0" not in term
    try:
        UUID(term)
    except ValueError:
        return False
    return True
