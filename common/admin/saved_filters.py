"""
Saved filters: a search with its filters and its sorting under a name, on every list of the admin.

They belong to whoever saves them; the others of the back office may open those that are shared. Each opens on the list
that it was saved on, so it shows nobody a page that they may not see.
"""

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.auth import get_user_model
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import BooleanField, ExpressionWrapper, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.text import capfirst
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from outbox import clock

from ..errors import Refusal
from . import conf, list_queries, urls

MAX_FILTERS = 100  # of a person
MAX_SHARED = 50  # of others, that a list shows
MAX_LENGTH = 2000  # characters of a query


class TooManyFilters(Refusal):
    """This person has saved as many filters as one may."""

    code = "too_many_filters"


class NameTaken(Refusal):
    """Another filter of this person on this list has the name."""

    code = "name_taken"


class FilterForm(forms.Form):
    """Asks for the name of a filter, and whether others see it."""

    name = forms.CharField(label=_("Name"), max_length=60, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    shared = forms.BooleanField(label=_("For everyone"), required=False)


def seen_by(user: Any, page: str) -> QuerySet[Any]:
    """Return the filters of a list that a person may open: their own, and after them those that others share."""
    found = conf.saved_filters().objects.filter(Q(user_id=user.pk) | Q(shared=True, user__is_active=True), page=page)
    of_others = ExpressionWrapper(~Q(user_id=user.pk), BooleanField())
    return found.select_related("user").order_by(of_others, "name", "pk")[: MAX_FILTERS + MAX_SHARED]


def save(*, user: Any, page: str, name: str, params: list_queries.Params, shared: bool, now: datetime) -> bool:
    """
    Save a filter of a list; return whether it is new. One of the same name is replaced.

    :raises TooManyFilters: if this person has too many already
    """
    filters = conf.saved_filters()
    with transaction.atomic(using="default"):
        _lock(user)
        values = {"params": [list(one) for one in params], "shared": shared, "saved_at": now}
        if filters.objects.filter(user_id=user.pk, page=page, name=name).update(**values):
            return False
        if filters.objects.filter(user_id=user.pk).count() >= MAX_FILTERS:
            raise TooManyFilters(
                _g("No more than %(max)d filters can be saved. Delete one first.") % {"max": MAX_FILTERS}
            )
        filters.objects.create(user_id=user.pk, page=page, name=name, **values)
        return True


def change(found: Any, *, name: str, shared: bool) -> None:
    """
    Give a filter another name, share it, or keep it for oneself.

    :raises NameTaken: if another filter of this person on this list has the name
    """
    filters = conf.saved_filters()
    with transaction.atomic(using="default"):
        _lock(found.user)
        if filters.objects.filter(user_id=found.user_id, page=found.page, name=name).exclude(pk=found.pk).exists():
            raise NameTaken(_g("You already have a filter with this name."))
        filters.objects.filter(pk=found.pk).update(name=name, shared=shared)


def _lock(user: Any) -> None:
    """One change of the filters of a person at a time."""
    get_user_model().objects.select_for_update(no_key=True).get(pk=user.pk)


class SavedFilterPages:
    """For a model admin: its list with saved filters. The back office gives it to every admin."""

    def get_urls(self) -> list[URLPattern]:
        here: Any = self
        view = here.admin_site.admin_view
        return [
            path("filters/", view(self.filters_view), name=urls.name_of(here.opts, "filters")),
            path("filters/save/", view(self.save_filter_view), name=urls.name_of(here.opts, "save_filter")),
            path("filters/<uuid:filter_id>/", view(self.filter_view), name=urls.name_of(here.opts, "filter")),
            *super().get_urls(),  # type: ignore[misc]
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        answer = super().changelist_view(request, extra_context)  # type: ignore[misc]
        if isinstance(answer, TemplateResponse) and (shown := answer.context_data) and "cl" in shown:
            params = list_queries.params_of(request)
            found = self._filters(request)
            own = [one for one in found if one["filter"].user_id == request.user.pk]
            shown["saved_filters"] = {
                "own": own,
                "shared": found[len(own) :],
                "url": self._url("filters") if own else "",
                "save_url": f"{self._url('save_filter')}?{list_queries.query(params)}" if params else "",
                "form": FilterForm(auto_id="saved_%s", label_suffix=""),
            }
        return answer

    def filters_view(self, request: HttpRequest) -> HttpResponse:
        """Show the filters that this person has saved on this list, to rename, share or delete them."""
        here: Any = self
        self._check(request)
        return TemplateResponse(
            request,
            "admin/saved_filters.html",
            {
                **here.admin_site.each_context(request),
                "opts": here.opts,
                "title": _("Saved filters"),
                "list_name": capfirst(str(here.opts.verbose_name_plural)),
                "list_url": self._url("changelist"),
                "filters": [one for one in self._filters(request) if one["filter"].user_id == request.user.pk],
                "max_length": FilterForm.base_fields["name"].max_length,  # type: ignore[attr-defined]
            },
        )

    def save_filter_view(self, request: HttpRequest) -> HttpResponse:
        """Save what the list shows, under the name that the form has."""
        here: Any = self
        self._check(request)
        changes, kept, _ignored = list_queries.usable(here, request, list_queries.params_of(request))
        back = HttpResponseRedirect(f"{self._url('changelist')}?{list_queries.query(kept)}")
        form = FilterForm(request.POST)
        if request.method != "POST" or not kept:
            return back
        params = list_queries.with_named_columns(changes, kept)
        if not form.is_valid() or len(json.dumps(params)) > MAX_LENGTH:
            why = form.errors.get("name") or [_g("The filter is too long to be saved.")]
            messages.error(request, "; ".join(map(str, why)))
            return back
        values = form.cleaned_data
        try:
            is_new = save(
                user=request.user, page=here.opts.label_lower, params=params, now=clock.now("default"), **values
            )  # fmt: skip
        except Refusal as refusal:
            messages.error(request, str(refusal))
            return back
        said = _g("The filter “%(name)s” is saved.") if is_new else _g("The filter “%(name)s” is replaced.")
        messages.success(request, said % {"name": values["name"]})
        return back

    def filter_view(self, request: HttpRequest, filter_id: UUID) -> HttpResponse:
        """Open a filter; if a form comes, change or delete it, which only its owner may."""
        here: Any = self
        self._check(request)
        found = next((one for one in seen_by(request.user, here.opts.label_lower) if one.pk == filter_id), None)
        if found is None or (request.method == "POST" and found.user_id != request.user.pk):
            raise Http404
        if request.method != "POST":
            return self._opened(request, found)
        if "delete" in request.POST:
            found.delete()
            messages.success(request, _g("The filter “%(name)s” is deleted.") % {"name": found.name})
        elif (form := FilterForm(request.POST)).is_valid():
            try:
                change(found, **form.cleaned_data)
                messages.success(request, _g("The filter “%(name)s” is saved.") % {"name": form.cleaned_data["name"]})
            except Refusal as refusal:
                messages.error(request, str(refusal))
        else:
            messages.error(request, "; ".join(str(one) for errors in form.errors.values() for one in errors))
        return HttpResponseRedirect(self._url("filters"))

    def _opened(self, request: HttpRequest, found: Any) -> HttpResponse:
        """The list with this filter, as far as the list still has what the filter asks for."""
        here: Any = self
        placed = list_queries.with_placed_columns(list_queries.changes_with(here, request, []), found.params)
        _changes, kept, ignored = list_queries.usable(here, request, placed)
        gone = [f"{name}={value}" for name, value in ignored]
        gone += [f"{name}={value}" for name, value in found.params if name not in {one for one, _value in placed}]
        if gone:
            text = _g("This list no longer has what the filter asks for, so this was ignored: %(what)s.")
            messages.warning(request, text % {"what": ", ".join(gone)})
        return HttpResponseRedirect(f"{self._url('changelist')}?{list_queries.query(kept)}")

    def _filters(self, request: HttpRequest) -> list[dict[str, Any]]:
        here: Any = self
        seen = seen_by(request.user, here.opts.label_lower)
        return [{"filter": one, "url": self._url("filter", one.pk)} for one in seen]

    def _check(self, request: HttpRequest) -> None:
        here: Any = self
        if not here.has_view_or_change_permission(request):
            raise PermissionDenied

    def _url(self, page: str, *args: Any) -> str:
        here: Any = self
        return urls.url_of(here.opts, page, *args)
