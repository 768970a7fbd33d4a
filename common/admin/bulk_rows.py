"""
An action with many rows of a list, those that are selected or all that match: one form for all of them.

Whoever confirms it starts a run, which goes on in the background: see bulk_runs.py.
"""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin.views.main import ORDER_VAR
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import translation
from django.utils.text import capfirst
from django.utils.translation import gettext as _g
from django.utils.translation import ngettext

from .. import keyset
from ..errors import Refusal
from . import bulk_runs, display, list_queries, urls
from .actions import Action

MAX_IDS = 1000  # that are selected
MAX_ROWS = 50_000  # that match
MAX_SECONDS = 15.0  # to find them
PAGE = 1000  # rows of a query


class TooManyRows(Refusal):
    """More rows match than one run may cover, or it takes too long to find them."""

    code = "too_many_rows"


class BulkPages:
    """For a model admin with actions: `bulk_actions` names those that one may do with many rows of the list."""

    bulk_actions: tuple[str, ...] = ()

    def get_urls(self) -> list[URLPattern]:
        here: Any = self
        view = here.admin_site.admin_view
        return [
            path("many/<slug:name>/", view(self.many_view), name=urls.name_of(here.opts, "many")),
            path("all/<slug:name>/", view(self.all_view), name=urls.name_of(here.opts, "all")),
            *super().get_urls(),  # type: ignore[misc]
        ]

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        more = {
            f"many_{action.name}": (partial(_choose, action=action), f"many_{action.name}", str(action.label))
            for action in self._permitted(request)
        }
        return super().get_actions(request) | more  # type: ignore[misc]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Besides the list, links to what can be done with all rows that match, if not all of them are on the page."""
        here: Any = self
        answer = super().changelist_view(request, extra_context)  # type: ignore[misc]
        if isinstance(answer, TemplateResponse) and (shown := answer.context_data) and (changes := shown.get("cl")):
            params = list_queries.params_of(request, but=[ORDER_VAR])
            if params and (changes.older_url or changes.newer_url):
                shown["matching_actions"] = [
                    {
                        "label": action.label,
                        "url": f"{urls.url_of(here.opts, 'all', action.name)}?{list_queries.query(params)}",
                    }
                    for action in self._permitted(request)
                ]
        return answer

    def many_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """Ask for confirmation; then act on the selected rows."""
        here: Any = self
        action = self._bulk_action(request, name)
        ids = list(dict.fromkeys(request.GET.getlist("ids")))[:MAX_IDS]
        first = next((row for pk in ids if (row := here.get_object(request, pk)) is not None), None)
        if first is None:
            raise Http404
        said = ngettext("%(n)s row is selected.", "%(n)s rows are selected.", len(ids))
        said %= {"n": display.number_text(len(ids))}
        return self._confirm(request, action, first, ids, said=said)

    def all_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """Ask for confirmation; then act on all rows that match, except for those that have come since."""
        here: Any = self
        action = self._bulk_action(request, name)
        back = HttpResponseRedirect(self._list_url(request))
        changes, kept, ignored = list_queries.usable(here, request, list_queries.params_of(request, but=[ORDER_VAR]))
        if ignored or not kept:
            messages.warning(request, _g("Filter or search the list first."))
            return back
        try:
            found = _matching(changes, upto=request.POST.get("upto", ""))
        except TooManyRows as refusal:
            messages.warning(request, str(refusal))
            return back
        first = here.get_object(request, found[0].pk) if found else None
        if first is None:
            messages.warning(request, _g("No rows match."))
            return back
        upto = request.POST.get("upto") or keyset.encode(keyset.key_of(found[0], changes.order))
        said = ngettext("%(n)s row matches.", "%(n)s rows match.", len(found)) % {"n": display.number_text(len(found))}
        about = list_queries.in_words(changes)
        return self._confirm(
            request, action, first, [str(row.pk) for row in found], said=said, params=kept, upto=upto, about=about
        )

    def _confirm(
        self,
        request: HttpRequest,
        action: Action,
        first: Any,
        keys: list[str],
        *,
        said: str,
        params: list_queries.Params = (),
        upto: str = "",
        about: Sequence[str] = (),
    ) -> HttpResponse:
        """Show the form; when it comes back, start the run and go to its page."""
        here: Any = self
        form = action.form(request.POST if request.method == "POST" else None, row=first)
        if form.is_valid():
            values = {one: form.data[one] for one in form.fields if not form.fields[one].widget.is_hidden}
            run = bulk_runs.start(
                request, model=here.model, action=action, number=form.cleaned_data["once"], keys=keys, values=values,
                params=[list(one) for one in params], text=_log_text(action, len(keys), params, values),
            )  # fmt: skip
            return HttpResponseRedirect(urls.url_of(run._meta, "change", run.pk))
        list_url = urls.url_of(here.opts, "changelist")
        context = {
            **here.admin_site.each_context(request),
            "opts": here.opts,
            "title": action.label,
            "explanation": "" if callable(action.explanation) else action.explanation,
            "destructive": action.destructive,
            "send": action.label,
            "keep": action.keep or _g("Back"),
            "list_name": capfirst(str(here.opts.verbose_name_plural)),
            "list_url": list_url,
            "back": self._list_url(request) if upto else list_url,
            "form": form,
            "said": said,
            "about": about,
            "upto": upto,
        }
        return TemplateResponse(request, "admin/bulk_rows.html", context, status=422 if form.errors else 200)

    def _permitted(self, request: HttpRequest) -> Iterator[Action]:
        here: Any = self
        for action in here.page_actions:
            if action.name in self.bulk_actions and action.is_permitted(request):
                yield action

    def _bulk_action(self, request: HttpRequest, name: str) -> Action:
        here: Any = self
        for action in here.page_actions:
            if action.name == name and name in self.bulk_actions:
                if not (action.is_permitted(request) and here.has_view_permission(request)):
                    raise PermissionDenied
                return action
        raise Http404

    def _list_url(self, request: HttpRequest) -> str:
        here: Any = self
        return f"{urls.url_of(here.opts, 'changelist')}?{request.GET.urlencode()}"


def _choose(admin: Any, request: HttpRequest, selected: QuerySet[Any], *, action: Action) -> HttpResponse:
    url = urls.url_of(admin.opts, "many", action.name)
    return HttpResponseRedirect(f"{url}?{urlencode([('ids', pk) for pk in selected.values_list('pk', flat=True)])}")


def _matching(changes: Any, *, upto: str) -> list[Model]:
    """
    The keys of all rows of a list, as far as `upto`, the key of the one that was the newest.

    :raises TooManyRows: if there are more than a run may cover, or if it takes too long to find them
    """
    keys = changes.queryset.select_related(None).only("pk", *keyset.names(changes.order))
    if upto:
        try:
            key = keyset.decode(upto, changes.model, changes.order)
        except ValueError as error:
            raise Http404 from error
        keys = keys.filter(keyset.from_on(key, changes.order))
    changes.queryset = keys
    found: list[Model] = []
    ends = time.monotonic() + MAX_SECONDS
    for rows in changes.all_pages(PAGE):
        found += rows
        if len(found) > MAX_ROWS:
            most = display.number_text(MAX_ROWS)
            raise TooManyRows(_g("More than %(n)s rows match. Filter the list further.") % {"n": most})
        if time.monotonic() > ends:
            raise TooManyRows(_g("It takes too long to find the rows that match. Filter the list by time."))
    return found


def _log_text(action: Action, number: int, params: list_queries.Params, values: dict[str, str]) -> str:
    with translation.override("en"):
        where = list_queries.for_log(params)
        told = "; ".join(f"{name}: {value}" for name, value in values.items())
        return f"{action.label}: {number} rows{f' where {where}' if where else ' that were selected'}. {told}".strip()
