"""
Lists that take no query parameters but those of their declared filters.

# Note [Why a whitelist]: Django's admin passes every other parameter that names a field to the query, so whoever may
see a list could ask for `?secret__regex=^a` and read a field that no page shows, character by character.
"""

from functools import cache
from typing import Any

from django.contrib.admin.exceptions import DisallowedModelAdminLookup
from django.contrib.admin.views.main import ChangeList
from django.http import HttpRequest


class DeclaredFilters:
    """For a change list: refuses the parameters that neither a filter nor the date hierarchy has consumed."""

    def get_filters(self, request: HttpRequest) -> tuple[Any, ...]:
        here: Any = self
        found: tuple[Any, ...] = super().get_filters(request)  # type: ignore[misc]
        undeclared = set(found[2]) - {f"{here.date_hierarchy}__{part}" for part in ("month", "day", "gte", "lt")}
        if undeclared:
            raise DisallowedModelAdminLookup(f"Filtering by {', '.join(sorted(undeclared))} not allowed")
        return found


class DeclaredLookups:
    """For a model admin: its list is filtered by declared filters only. The back office gives it to every admin."""

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return _declared(super().get_changelist(request, **kwargs))  # type: ignore[misc]


@cache
def _declared(kind: type[ChangeList]) -> type[ChangeList]:
    return type(kind.__name__, (DeclaredFilters, kind), {})
