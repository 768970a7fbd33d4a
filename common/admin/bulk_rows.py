"""
An action with many rows of a list: one form for all, then a few rows with each request, with the progress shown.

Each row is acted on as from its own page, under a number of its own: by the same rules, once, and with an entry in the
log. See also the note in bulk.py [Steps, not a task].
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid5

from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.text import capfirst
from django.utils.translation import gettext as _g

from outbox.errors import OutboxError

from ..errors import Refusal
from ..performed_actions import RequestIdReused
from .actions import Action, in_words
from .sealed import SealedRun

STEP = 10  # rows
MAX_IDS = 1000


@dataclass(frozen=True)
class RowsRun(SealedRun):
    """The progress of a run."""

    salt = "admin.bulk_rows"

    model: str
    action: str
    number: str  # from which the number of the form of each row is made
    left: list[str]
    values: dict[str, str] = field(default_factory=dict)  # what the form has asked for
    total: int = 0
    results: dict[str, int] = field(default_factory=dict)  # what became of how many
    refused: list[tuple[str, str]] = field(default_factory=list)  # which rows were left alone, and why

    @property
    def done(self) -> int:
        return self.total - len(self.left)

    @property
    def finished(self) -> bool:
        return not self.left


class BulkPages:
    """For a model admin with actions: `bulk_actions` names those that one may do with many rows of the list."""

    bulk_actions: tuple[str, ...] = ()

    def get_urls(self) -> list[URLPattern]:
        here: Any = self
        name = f"{here.opts.app_label}_{here.opts.model_name}_many"
        view = here.admin_site.admin_view(self.many_view)
        return [path("many/<slug:name>/", view, name=name), *super().get_urls()]  # type: ignore[misc]

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        more = {
            f"many_{action.name}": (partial(_choose, action=action), f"many_{action.name}", str(action.label))
            for action in self._permitted(request)
        }
        return super().get_actions(request) | more  # type: ignore[misc]

    def _permitted(self, request: HttpRequest) -> Iterator[Action]:
        here: Any = self
        for action in here.page_actions:
            if action.name in self.bulk_actions and action.is_permitted(request):
                yield action

    def many_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """Show the form; then act on a few rows with each request, and show the progress."""
        here: Any = self
        action = next((one for one in here.page_actions if one.name == name and name in self.bulk_actions), None)
        if action is None:
            raise Http404
        if not (action.is_permitted(request) and here.has_view_permission(request)):
            raise PermissionDenied
        form, run = None, None
        if "run" in request.POST:
            run = RowsRun.unsealed(request.POST["run"])
            if (run.model, run.action) != (here.opts.label_lower, name):
                raise Http404
            run = self._step(request, action, run)
        else:
            ids = list(dict.fromkeys(request.GET.getlist("ids")))[:MAX_IDS]
            first = next((row for pk in ids if (row := here.get_object(request, pk)) is not None), None)
            if first is None:
                raise Http404
            form = action.form(request.POST if request.method == "POST" else None, row=first)
            if form.is_valid():
                values = {one: form.data[one] for one in form.fields if not form.fields[one].widget.is_hidden}
                new = RowsRun(here.opts.label_lower, name, str(form.cleaned_data["once"]), ids, values, len(ids))
                run = self._step(request, action, new)
        where = reverse(f"admin:{here.opts.app_label}_{here.opts.model_name}_changelist")
        context = {
            **here.admin_site.each_context(request),
            "opts": here.opts,
            "title": action.label,
            "explanation": "" if callable(action.explanation) else action.explanation,
            "destructive": action.destructive,
            "list_name": capfirst(str(here.opts.verbose_name_plural)),
            "list_url": where,
            "back": where,
            "form": form,
            "total": run.total if run else len(ids),
            "run": run,
            "sealed": run.sealed() if run else "",
        }
        status = 422 if form is not None and form.errors else 200
        return TemplateResponse(request, "admin/bulk_rows.html", context, status=status)

    def _step(self, request: HttpRequest, action: Action, run: RowsRun) -> RowsRun:
        """Act on a few more rows; return the new progress."""
        results, refused = dict(run.results), list(run.refused)
        for pk in run.left[:STEP]:
            result, reason = self._act(request, action, run, pk)
            if reason:
                refused.append((pk, reason))
            else:
                results[result] = results.get(result, 0) + 1
        return replace(run, left=run.left[STEP:], results=results, refused=refused)

    def _act(self, request: HttpRequest, action: Action, run: RowsRun, pk: str) -> tuple[str, str]:
        """Act on a row; return what to say of it, and why it was left alone, if it was."""
        here: Any = self
        row = here.get_object(request, pk)
        if row is None:
            return "", _g("It does not exist any more.")
        unbound: Any = action.form(row=row)
        data = {name: unbound.get_initial_for_field(one, name) for name, one in unbound.fields.items()}
        form = action.form(data | run.values | {"once": uuid5(UUID(run.number), pk)}, row=row)
        if not form.is_valid():
            return "", "; ".join(str(error) for errors in form.errors.values() for error in errors)
        try:
            message = here._perform(request, action, here._call(request, row, form), form)
        except RequestIdReused:  # a step that is sent again finds the row in the state to which it has brought it
            return _g("This was already done; it was not done again."), ""
        except (Refusal, OutboxError) as refusal:
            return "", in_words(refusal)
        return str(message or _g("Done: %(action)s.") % {"action": action.label}), ""


def _choose(admin: Any, request: HttpRequest, selected: QuerySet[Any], *, action: Action) -> HttpResponse:
    url = reverse(f"admin:{admin.opts.app_label}_{admin.opts.model_name}_many", args=[action.name])
    return HttpResponseRedirect(f"{url}?{urlencode([('ids', pk) for pk in selected.values_list('pk', flat=True)])}")
