"""The action that corrects a dead letter: a form for its data, and what is different before it is sent."""

import json
from dataclasses import fields
from typing import Any

from django import forms
from django.template.loader import render_to_string
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from outbox import corrections
from outbox.errors import OutboxError
from outbox.message import REGISTRY
from outbox.models import DeadLetter
from outbox.preview import preview
from outbox.strict_json import hints

from ..corrections import replay_corrected
from .actions import Action, ActionCall, in_words
from .forms import ReasonForm


class CorrectionForm(ReasonForm):
    """Asks for the data of the message as JSON, and why they are others."""

    corrected = forms.CharField(
        label=_("Data"),
        widget=forms.Textarea(attrs={"rows": 16, "cols": 80, "spellcheck": "false", "class": "data"}),
    )
    field_order = ("corrected", "reason")
    unlogged = frozenset({"corrected"})

    def __init__(self, *args: Any, row: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        self.envelope = row.envelope()
        self.fields["corrected"].initial = json.dumps(self.envelope.data, indent=2, ensure_ascii=False)
        self.fields["corrected"].help_text = _fields_of(self.envelope.type)
        self.fields["corrected"].widget.attrs["aria-describedby"] = "id_corrected_help"

    def clean_corrected(self) -> Any:
        """The data, which fit the type of the message."""
        try:
            data = corrections.parse(self.cleaned_data["corrected"])
            corrections.correct(self.envelope, data)
        except OutboxError as refusal:
            raise forms.ValidationError(str(refusal)) from refusal
        return data


def _fields_of(type_: str) -> str:
    """The fields of a type of messages, in words."""
    if (kind := REGISTRY.get(type_)) is None:
        return ""
    names = [f"{field.name} ({_kind(hints(kind)[field.name])})" for field in fields(kind)]  # type: ignore[arg-type]
    return _g("Fields of %(type)s: %(fields)s.") % {"type": type_, "fields": ", ".join(names)}


def _kind(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _review(call: ActionCall) -> str:
    """What is different, and what the handler would do with it."""
    data = call.values["corrected"]
    context: dict[str, Any] = {"changes": corrections.changes(call.row.envelope().data, data)}
    try:
        context["preview"] = preview(call.row, data=data)
    except OutboxError as refusal:
        context["refusal"] = in_words(refusal)
    return render_to_string("admin/outbox/correction.html", context)


def _perform(call: ActionCall) -> str:
    replay_corrected(
        dead_letter=call.row, data=call.values["corrected"], reason=call.values["reason"], by=call.by, now=call.now
    )
    return _g("The corrected message has been sent. The original is kept here.")


def is_correctable(dead_letter: DeadLetter) -> bool:
    """Whether its type is known, so that other data can be checked."""
    return dead_letter.type in REGISTRY


CORRECT = Action(
    name="correct",
    label=_("Correct and replay"),
    explanation=_(
        "Sends the message with other data. Whatever has handled the original does not handle the correction as well."
        " First you see what is different and what would happen."
    ),
    permission="correct_message",
    form=CorrectionForm,
    perform=_perform,
    review=_review,
)
