"""
What people can do at a window: each verb with its permission, a page that says what will happen, and a line in the log.

A verb calls a service of the service. Its form carries a number that it is carried out under once: a double click, or a
page sent again, finds that it is done.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import quote, unquote
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone, translation
from django.utils.text import capfirst
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from outbox.consumers import Undeliverable

from .. import money
from ..errors import Refusal
from ..locks import take_turn

GROUPED = re.compile(r"-?\d{1,3}(,\d{3})+\.\d+")  # 1,250.00
AMBIGUOUS = re.compile(r"-?\d+,\d{3}")  # 1,250 may be either; 12,50 can only be 12.50
REMEMBERED = timedelta(days=1)


class ConfirmationForm(forms.Form):
    """Nothing but "yes, do it". ActionPages that ask for more subclass it."""

    once = forms.UUIDField(widget=forms.HiddenInput, initial=uuid4)

    def __init__(self, *args: Any, row: Any = None, **kwargs: Any) -> None:
        self.row = row
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        for name, field in self.fields.items():
            if field.help_text:
                field.widget.attrs["aria-describedby"] = f"id_{name}_help"


class ReasonForm(ConfirmationForm):
    """Says why; the reason is kept with what is done."""

    reason = forms.CharField(label=_("Reason"), max_length=200, widget=forms.TextInput(attrs={"autocomplete": "off"}))


class ShortReasonForm(ReasonForm):
    """Says why in a few words, where no more are kept."""

    reason = forms.CharField(label=_("Reason"), max_length=50)


class AmountField(forms.CharField):
    """An amount as people write it; minor units inside."""

    def __init__(self, *, least: int | None = 1, **kwargs: Any) -> None:
        self.least = least
        self.currency = settings.CURRENCY
        widget = forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off", "size": 16})
        super().__init__(widget=widget, **kwargs)

    def to_python(self, value: Any) -> Any:
        text = "".join((super().to_python(value) or "").split())
        if not text:
            return None
        if GROUPED.fullmatch(text):
            text = text.replace(",", "")
        elif "." not in text and not AMBIGUOUS.fullmatch(text):
            text = text.replace(",", ".")
        try:
            minor = money.minor_units(text, currency=self.currency)
        except money.NotAnAmount as error:
            raise forms.ValidationError(
                _("Write an amount such as %(example)s."),
                params={"example": money.text(12_345, currency=self.currency).removesuffix(f" {self.currency}")},
            ) from error
        if self.least is not None and minor < self.least:
            raise forms.ValidationError(_("The amount must be greater than zero."))
        if minor == 0 and self.least is None:
            raise forms.ValidationError(_("An amount of zero changes nothing."))
        return minor


@dataclass(frozen=True)
class ActionCall:
    """A verb on its way: on what, with what, by whom."""

    row: Any
    values: Mapping[str, Any]
    actor: str
    now: datetime
    request_id: str  # what it is carried out under, once


@dataclass(frozen=True)
class Action:
    """Something that people may do with a row, or (`of_list`) at the list itself."""

    name: str
    label: Any
    explanation: Any
    permission: str
    perform: Callable[[ActionCall], Any]  # answers what to tell of it, if anything
    form: type[ConfirmationForm] = ConfirmationForm
    is_possible: Callable[[Any], bool] = lambda row: True
    of_list: bool = False
    destructive: bool = False


class ActionPages:
    """For a model admin: its `verbs`, each on a page of its own."""

    page_actions: tuple[Action, ...] = ()

    def get_urls(self) -> list[URLPattern]:
        here: Any = self
        name = f"{here.opts.app_label}_{here.opts.model_name}_verb"
        view = here.admin_site.admin_view(self.action_view)
        return [
            path("do/<slug:verb>/", view, name=f"{name}_of_list"),
            path("<path:object_id>/do/<slug:verb>/", view, name=name),
            *super().get_urls(),  # type: ignore[misc]
        ]

    def action_links(self, request: HttpRequest, row: Any = None) -> list[dict[str, Any]]:
        """What this person may do now, with this row or at the list."""
        return [
            {"label": verb.label, "destructive": verb.destructive, "url": self.action_url(verb, row)}
            for verb in self.page_actions
            if verb.of_list == (row is None)
            and request.user.has_perm(verb.permission)
            and (row is None or verb.is_possible(row))
        ]

    def action_url(self, verb: Action, row: Any = None) -> str:
        here: Any = self
        name = f"admin:{here.opts.app_label}_{here.opts.model_name}_verb"
        return (
            reverse(f"{name}_of_list", args=[verb.name])
            if row is None
            else reverse(name, args=[quote(row.pk), verb.name])
        )

    def action_view(self, request: HttpRequest, verb: str, object_id: str | None = None) -> HttpResponse:
        """Ask whether to do it, and do it."""
        here: Any = self
        chosen = next(
            (one for one in self.page_actions if one.name == verb and one.of_list == (object_id is None)), None
        )
        if chosen is None:
            raise Http404
        row = here.get_object(request, unquote(object_id)) if object_id is not None else None
        if object_id is not None and row is None:
            raise Http404
        if not (request.user.has_perm(chosen.permission) and here.has_view_permission(request, row)):
            raise PermissionDenied
        back = self._back(row)
        form = chosen.form(request.POST if request.method == "POST" else None, row=row)
        if form.is_bound and form.is_valid():
            try:
                told = self._do(request, chosen, row, form)
            except (Refusal, Undeliverable) as refusal:
                form.add_error(None, in_words(refusal))
            else:
                messages.success(request, told or _g("Done: %(verb)s.") % {"verb": chosen.label})
                return HttpResponseRedirect(back)
        elif row is not None and not chosen.is_possible(row):
            messages.warning(request, _g("This can't be done any more: it has moved on."))
            return HttpResponseRedirect(back)
        context = {
            **here.admin_site.each_context(request),
            "opts": here.opts,
            "original": row,
            "title": chosen.label,
            "explains": chosen.explanation(row) if callable(chosen.explanation) else chosen.explanation,
            "form": form,
            "destructive": chosen.destructive,
            "back": back,
            "list_name": capfirst(str(here.opts.verbose_name_plural)),
            "list_url": reverse(f"admin:{here.opts.app_label}_{here.opts.model_name}_changelist"),
        }
        return TemplateResponse(request, "admin/verb.html", context, status=422 if form.errors else 200)

    def _back(self, row: Any) -> str:
        here: Any = self
        name = f"admin:{here.opts.app_label}_{here.opts.model_name}"
        return reverse(f"{name}_changelist") if row is None else reverse(f"{name}_change", args=[quote(row.pk)])

    def _do(self, request: HttpRequest, verb: Action, row: Any, form: ConfirmationForm) -> Any:
        number: UUID = form.cleaned_data["once"]
        said = {name: value for name, value in form.cleaned_data.items() if name != "once"}
        call = ActionCall(row, said, request.user.get_username(), timezone.now(), str(number))
        model = self.model  # type: ignore[attr-defined]  # the model admin's
        return once(request, call, lambda: verb.perform(call), model=model, text=_log(verb, form))


def once(request: HttpRequest, call: ActionCall, act: Callable[[], Any], *, model: Any, text: str) -> Any:
    """Act and write it into the log, unless that was done under this number; what there is to tell."""
    log = LogEntry.objects.using("default")
    with transaction.atomic(using="default"):
        take_turn("default", f"verb {call.request_id}")
        done = log.filter(
            user_id=str(request.user.pk),
            action_time__gte=call.now - REMEMBERED,
            change_message__endswith=call.request_id,
        )
        if done.exists():
            return _g("This was done already; it was not done again.")
        told = act()
        note(request, model=model, row=call.row, text=f"{text} #{call.request_id}")
    return told


def note(request: HttpRequest, *, model: Any, text: str, row: Any = None) -> None:
    """Write into the log who did what."""
    LogEntry.objects.using("default").create(
        user_id=request.user.pk,  # type: ignore[misc]  # nobody gets here without being somebody
        content_type_id=ContentType.objects.get_for_model(model, for_concrete_model=False).pk,
        object_id=str(row.pk) if row is not None else None,
        object_repr=str(row or model._meta.verbose_name)[:200],
        action_flag=CHANGE,
        change_message=text,
    )


def _log(verb: Action, form: ConfirmationForm) -> str:
    with translation.override("en"):
        said = [
            f"{field.label or name}: {form[name].data}"
            for name, field in form.fields.items()
            if name != "once" and form.cleaned_data.get(name) not in (None, "")
        ]
        return f"{verb.label}." + (f" {'; '.join(said)}." if said else "")


def in_words(refusal: Refusal | Undeliverable) -> str:
    """What a person is told of a refusal, with its code."""
    return f"{refusal} ({refusal.code})"
