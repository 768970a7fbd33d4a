"""
The query of a list of the admin: what is searched and filtered, and by which column the list is sorted.

What is stored of it outlives the list: a filter, one of its values or a column may be gone, or stand elsewhere.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from django.contrib.admin.exceptions import DisallowedModelAdminLookup
from django.contrib.admin.filters import (
    BooleanFieldListFilter,
    ChoicesFieldListFilter,
    RelatedFieldListFilter,
    SimpleListFilter,
)
from django.contrib.admin.options import IS_FACETS_VAR, IS_POPUP_VAR, TO_FIELD_VAR, IncorrectLookupParameters
from django.contrib.admin.views.main import ALL_VAR, ERROR_FLAG, ORDER_VAR, PAGE_VAR, SEARCH_VAR
from django.http import HttpRequest, QueryDict
from django.utils.text import capfirst
from django.utils.translation import gettext as _g

from .display import field_shown

# Where one is in the list, and how it is shown; nothing of what it holds.
PLACE = frozenset({"older", "newer", ALL_VAR, ERROR_FLAG, IS_FACETS_VAR, IS_POPUP_VAR, PAGE_VAR, TO_FIELD_VAR})

Params = Sequence[Sequence[str]]  # names with their values


def params_of(request: HttpRequest, *, but: Iterable[str] = ()) -> list[list[str]]:
    """Return what the query of a list asks for, without the page of the list that is shown."""
    left_out = PLACE.union(but)
    return [[name, value] for name, values in request.GET.lists() if name not in left_out for value in values if value]


def for_log(params: Params) -> str:
    """Return the query with these parameters for the log. It is not encoded, so names in it are found and erased."""
    return " and ".join("=".join(one) for one in params)


def query(params: Params) -> str:
    """Return the query with these parameters."""
    made = QueryDict(mutable=True)
    for name, value in params:
        made.appendlist(name, value)
    return made.urlencode()


def changes_with(admin: Any, request: HttpRequest, params: Params) -> Any:
    """Return the list as it is with these parameters; None if it refuses one of them."""
    asked = copy.copy(request)
    asked.GET = QueryDict(query(params))
    try:
        return admin.get_changelist_instance(asked)
    except (DisallowedModelAdminLookup, IncorrectLookupParameters):
        return None


def usable(admin: Any, request: HttpRequest, params: Params) -> tuple[Any, Params, Params]:
    """Return the list as far as it takes these parameters, and which of them it takes and which it does not."""
    changes = changes_with(admin, request, params)
    kept: list[Sequence[str]] = list(params)
    if changes is None:
        kept = []
        for one in params:
            if changes_with(admin, request, [*kept, one]) is not None:
                kept.append(one)
        changes = changes_with(admin, request, kept)
    kept = [one for one in kept if _has_meaning(changes, *one)]
    return changes, kept, [one for one in params if one not in kept]


def _has_meaning(changes: Any, name: str, value: str) -> bool:
    """Whether the list does with a parameter what it says: Django passes over some values that no filter has."""
    if name == SEARCH_VAR:
        return bool(changes.search_fields)
    for spec in changes.filter_specs:
        match spec:
            case SimpleListFilter() if name == spec.parameter_name:
                return value in {str(one) for one, _label in spec.lookup_choices}
            case ChoicesFieldListFilter() if name == spec.lookup_kwarg:
                return value in {str(one) for one, _label in spec.field.flatchoices}
            case RelatedFieldListFilter() if name == spec.lookup_kwarg:
                return value in {str(one) for one, _label in spec.lookup_choices}
            case BooleanFieldListFilter() if name == spec.lookup_kwarg:
                return value in {"0", "1"}
    return True


def with_named_columns(changes: Any, params: Params) -> list[list[str]]:
    """
    Return the parameters with the name of the column that the list is sorted by, instead of its place.

    # Note [Names, not places]: the place of a column depends on the release, and on who looks: a list without actions
    has no boxes to tick.
    """
    names = [_name_of(column) for column in changes.list_display]
    return _with_sort(params, lambda place: names[int(place)] if place.isdecimal() and int(place) < len(names) else "")


def with_placed_columns(changes: Any, params: Params) -> list[list[str]]:
    """Return the parameters with the place of the column that the list is sorted by; without it if it is gone."""
    names = [_name_of(column) for column in changes.list_display]
    return _with_sort(params, lambda name: str(names.index(name)) if name in names else "")


def _with_sort(params: Params, other: Any) -> list[list[str]]:
    found = []
    for name, value in params:
        if name == ORDER_VAR:
            parts = [(part[: part.startswith("-")], other(part.removeprefix("-"))) for part in value.split(".")]
            value = ".".join(sign + column for sign, column in parts if column)
        if value:
            found.append([name, value])
    return found


def _name_of(column: Any) -> str:
    return field_shown(column) or str(getattr(column, "__name__", column))


def in_words(changes: Any) -> list[str]:
    """Return what the list is searched for and filtered by, as people read it."""
    found = [f"{_g('Search')}: {changes.query}"] if changes.query else []
    for spec in changes.filter_specs:
        used = {name: value for name, value in spec.used_parameters.items() if value}
        if not used:
            continue
        chosen = [str(choice["display"]) for choice in spec.choices(changes) if choice["selected"]]
        days = [f"{name} {value}" for name, value in used.items() if name in getattr(spec, "days", ())]
        found.append(f"{capfirst(str(spec.title))}: {', '.join(days or chosen or map(str, used.values()))}")
    return found
