"""
Actions of operators: each has a permission, a page that explains it and asks for confirmation, and an entry in the log.

An action calls a function of the service, which decides under its lock whether the state allows it and whether one
person may do it alone: what is not allowed to one waits for a second one. The form carries a number, which commits
together with the effect, in the same database: whatever is sent again under it does nothing more.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import quote, unquote
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.core.serializers.json import DjangoJSONEncoder
from django.db import router, transaction
from django.http import Http404, HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import translation
from django.utils.text import capfirst
from django.utils.translation import gettext as _g

from outbox import clock
from outbox.errors import OutboxError

from ..authority import Authority, NeedsSecondPerson
from ..errors import Refusal
from . import conf, urls
from .forms import ConfirmationForm


class StateChanged(Refusal):
    """The state of the row does not allow the action any more."""

    code = "state_changed"


@dataclass(frozen=True)
class ActionCall:
    """
    One execution of an action: the row, the values of the form, and who does it when and by what authority.

    `found` is what the action's `first` has returned.
    """

    row: Any
    values: Mapping[str, Any]
    by: Authority
    now: datetime
    request_id: str  # the number of the form
    found: Mapping[str, Any] = field(default_factory=dict)

    @property
    def actor(self) -> str:
        return self.by.name


@dataclass(frozen=True)
class ShownOnce:
    """A secret that an action has made. The page that answers the form shows it; it is stored in no message or log."""

    label: Any
    value: str


@dataclass(frozen=True)
class Action:
    """
    Something that operators may do with a row or, with `of_list`, on the list itself.

    `permission` is a codename: see conf.py. `first` is called before the transaction begins (it may call a foreign
    service) and returns what it has found out. `perform` returns the message to show, if any, a secret to show once, or
    a response such as a file. `review` returns what the action would do, as HTML: that is shown first, and the action
    is performed with the values that were reviewed and no others. `keep` names the link that leads back without it.

    One that is `resumable` is in no transaction and has no number: it decides by itself whether it may be performed,
    commits as it goes on, and goes on from there when it was cut off.
    """

    name: str
    label: Any
    explanation: Any
    permission: str
    perform: Callable[[ActionCall], Any]
    first: Callable[[ActionCall], Mapping[str, Any]] | None = None
    form: type[ConfirmationForm] = ConfirmationForm
    is_possible: Callable[[Any], bool] = lambda row: True
    of_list: bool = False
    destructive: bool = False
    keep: Any = ""
    review: Callable[[ActionCall], str] | None = None
    resumable: bool = False

    def is_permitted(self, request: HttpRequest) -> bool:
        return request.user.has_perm(conf.permission(self.permission))


class ActionPages:
    """For a model admin: its `page_actions`, each with a page of its own."""

    page_actions: tuple[Action, ...] = ()

    def get_urls(self) -> list[URLPattern]:
        here: Any = self
        view = here.admin_site.admin_view(self.action_view)
        return [
            path("do/<slug:name>/", view, name=urls.name_of(here.opts, "list_action")),
            path("<path:object_id>/do/<slug:name>/", view, name=urls.name_of(here.opts, "action")),
            *super().get_urls(),  # type: ignore[misc]
        ]

    def action_links(self, request: HttpRequest, row: Any = None) -> list[dict[str, Any]]:
        """Links to what this person may do now with this row or, without one, on the list."""
        return [
            {"label": action.label, "destructive": action.destructive, "url": self.action_url(action, row)}
            for action in self.page_actions
            if action.of_list == (row is None)
            and action.is_permitted(request)
            and (row is None or action.is_possible(row))
        ]

    def action_url(self, action: Action, row: Any = None) -> str:
        here: Any = self
        if row is None:
            return urls.url_of(here.opts, "list_action", action.name)
        return urls.url_of(here.opts, "action", quote(row.pk), action.name)

    def action_view(self, request: HttpRequest, name: str, object_id: str | None = None) -> HttpResponseBase:
        """Ask for confirmation; when the form comes back, perform the action."""
        here: Any = self
        action = next(
            (one for one in self.page_actions if one.name == name and one.of_list == (object_id is None)), None
        )
        if action is None:
            raise Http404
        row = here.get_object(request, unquote(object_id)) if object_id is not None else None
        if object_id is not None and row is None:
            raise Http404
        if not (action.is_permitted(request) and here.has_view_permission(request, row)):
            raise PermissionDenied
        list_url = urls.url_of(here.opts, "changelist")
        back = list_url if row is None else urls.url_of(here.opts, "change", quote(row.pk))
        form = action.form(request.POST if request.method == "POST" else None, row=row)
        if form.is_bound and form.is_valid():
            call = self._call(request, row, form)
            try:
                if review := self._review(request, action, call):
                    return self._form_page(request, action, row, back, form, review)
                message = self._perform(request, action, call, form)
            except (Refusal, OutboxError) as refusal:
                form.add_error(None, in_words(refusal))
            else:
                if isinstance(message, HttpResponseBase):
                    return message
                if isinstance(message, ShownOnce):
                    return self._show_once(request, action, row, message, back)
                messages.success(request, message or _g("Done: %(action)s.") % {"action": action.label})
                return HttpResponseRedirect(back)
        elif row is not None and not action.is_possible(row):
            messages.warning(request, _g("This is no longer possible: the state has changed."))
            return HttpResponseRedirect(back)
        return self._form_page(request, action, row, back, form, {})

    def _form_page(
        self, request: HttpRequest, action: Action, row: Any, back: str, form: ConfirmationForm, review: dict[str, str]
    ) -> TemplateResponse:
        context = {
            **self._action_context(request, action, row, back),
            **review,
            "explanation": action.explanation(row) if callable(action.explanation) else action.explanation,
            "form": form,
            "destructive": action.destructive,
            "keep": action.keep or _g("Back"),
            "send": action.label if review or action.review is None else _g("See what would happen"),
        }
        return TemplateResponse(request, "admin/action.html", context, status=422 if form.errors else 200)

    def _show_once(
        self, request: HttpRequest, action: Action, row: Any, secret: ShownOnce, back: str
    ) -> TemplateResponse:
        context = {**self._action_context(request, action, row, back), "secret": secret}
        return TemplateResponse(request, "admin/shown_once.html", context)

    def _action_context(self, request: HttpRequest, action: Action, row: Any, back: str) -> dict[str, Any]:
        here: Any = self
        return {
            **here.admin_site.each_context(request),
            "opts": here.opts,
            "original": here.title_of(row) if row is not None else None,
            "title": action.label,
            "back": back,
            "list_name": capfirst(str(here.opts.verbose_name_plural)),
            "list_url": urls.url_of(here.opts, "changelist"),
        }

    def _now(self) -> datetime:
        return clock.now(router.db_for_write(self.model))  # type: ignore[attr-defined]

    def _call(self, request: HttpRequest, row: Any, form: ConfirmationForm) -> ActionCall:
        values = {name: value for name, value in form.cleaned_data.items() if name != "once"}
        by = Authority(request.user.get_username(), is_staff=True)
        return ActionCall(row, values, by, self._now(), str(form.cleaned_data["once"]))

    def _review(self, request: HttpRequest, action: Action, call: ActionCall) -> dict[str, str]:
        """What to show before the action is performed with these values; nothing if it has been shown."""
        if action.review is None:
            return {}
        reviewed = _fingerprint(self.model, action, call)  # type: ignore[attr-defined]
        return {} if request.POST.get("reviewed") == reviewed else {"reviewed": reviewed, "review": action.review(call)}

    def _perform(self, request: HttpRequest, action: Action, call: ActionCall, form: ConfirmationForm) -> Any:
        """Perform the action and log it, unless that was done under the number of this form; return what to show."""
        model: Any = self.model  # type: ignore[attr-defined]
        if action.resumable:
            message = action.perform(call)
            write_log(request, model=model, row=call.row, text=_log_text(action, form))
            return message
        performed, fingerprint = conf.performed_actions(), _fingerprint(model, action, call)
        if action.first is not None and not performed._base_manager.filter(request_id=call.request_id).exists():
            call = replace(call, found=action.first(call))
        with transaction.atomic(using="default"):
            if not performed.first_time(call.request_id, fingerprint=fingerprint, now=call.now):
                return _g("This was already done; it was not done again.")
            try:
                message = perform_once(action, call, model=model)
            except NeedsSecondPerson as needed:
                message = conf.request_approval(model=model, action=action, call=call, needed=needed)
            write_log(request, model=model, row=call.row, text=_log_text(action, form))
        return message


def perform_once(action: Action, call: ActionCall, *, model: Any) -> Any:
    """
    Perform an action, unless that was done under its number; return what to show.

    The number is stored in the database of the model, in the transaction of the service.

    :raises StateChanged: if the state of the row does not allow it
    :raises NeedsSecondPerson: if the service wants a second person
    """
    performed = conf.performed_actions(model._meta.app_label)
    with transaction.atomic(using=router.db_for_write(model)):
        if performed is not conf.performed_actions() and not performed.first_time(
            call.request_id, fingerprint=_fingerprint(model, action, call), now=call.now
        ):
            return _g("This was already done; it was not done again.")
        if call.row is not None:
            call = replace(call, row=model._base_manager.get(pk=call.row.pk))
            if not action.is_possible(call.row):
                raise StateChanged(_g("This is no longer possible: the state has changed."))
        return action.perform(call)


def _fingerprint(model: Any, action: Action, call: ActionCall) -> str:
    """A hash of what a form asks for."""
    asked = [model._meta.label_lower, action.name, str(call.row.pk) if call.row is not None else "", call.values]
    return hashlib.sha256(json.dumps(asked, cls=DjangoJSONEncoder, sort_keys=True).encode()).hexdigest()


def write_log(request: HttpRequest, *, model: Any, text: str, row: Any = None) -> None:
    """Log what this person did."""
    LogEntry.objects.using("default").create(
        user_id=request.user.pk,  # type: ignore[misc]  # every page of the admin needs a login
        content_type_id=ContentType.objects.get_for_model(model, for_concrete_model=False).pk,
        object_id=str(row.pk) if row is not None else None,
        object_repr=str(row or model._meta.verbose_name)[:200],
        action_flag=CHANGE,
        change_message=text,
    )


def _log_text(action: Action, form: ConfirmationForm) -> str:
    with translation.override("en"):
        values = [
            f"{field.label or name}: {_logged(form, name)}"
            for name, field in form.fields.items()
            if not field.widget.is_hidden and name not in form.unlogged
            if form.cleaned_data.get(name) not in (None, "") or form[name].initial not in (None, "")
        ]
        return f"{action.label}." + (f" {'; '.join(values)}." if values else "")


def _logged(form: ConfirmationForm, name: str) -> str:
    """A value of a form as text; after what it was before, if the form is about a row and shows it."""
    before, after = form[name].initial, form[name].data
    if form.row is None or before in (None, "") or name not in form.changed_data:
        return _as_text(after)
    return f"{_as_text(before)} → {_as_text(after)}"


def _as_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def in_words(refusal: Refusal | OutboxError) -> str:
    """The text of a refusal with its code."""
    return f"{refusal} ({refusal.code})"
