"""The data of persons: exported as a file, and erased by two operators."""

from typing import Any

from django import forms
from django.contrib import admin
from django.http import StreamingHttpResponse
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.admin import Action, ActionCall, ReadOnlyAdmin, ReasonForm, display
from common.personal_data import Person
from orders_project import people_data
from orders_project.models import Erasure

Status = Erasure.Status


class WhomForm(ReasonForm):
    """Asks for the names of a person, and why."""

    names = forms.CharField(
        label=_("User ids and emails"),
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("One in a line: all by which the person is known."),
    )
    client = forms.CharField(
        label=_("Client"),
        required=False,
        max_length=100,
        help_text=_("Whose user ids these are, where several clients have the same."),
    )
    field_order = ("names", "client", "reason")


def _person(call: ActionCall) -> Person:
    return people_data.person_called(call.values["names"].splitlines(), client=call.values["client"] or None)


def _export(call: ActionCall) -> StreamingHttpResponse:
    parts = people_data.export(_person(call), now=call.now)
    return StreamingHttpResponse(
        parts, content_type="application/json", headers={"Content-Disposition": 'attachment; filename="person.json"'}
    )


def _request(call: ActionCall) -> str:
    person = _person(call)
    people_data.request(person, reason=call.values["reason"], by=call.actor, now=call.now)
    waits = _g("A second person has to approve this.")
    if others := people_data.other_names(person):
        waits += " " + _g(
            "The orders of this person also say %(names)s. If these are names of the same person, reject this request "
            "and make one with all names."
        ) % {"names": ", ".join(others)}
    return waits


def _approve(call: ActionCall) -> str:
    if call.row.status != Status.RUNNING:
        people_data.decide(call.row.pk, approve=True, by=call.actor, now=call.now)
    people_data.carry_out(call.row.pk, now=call.now)
    return _g("The data is erased.")


def _reject(call: ActionCall) -> None:
    people_data.decide(call.row.pk, approve=False, by=call.actor, now=call.now)


@admin.register(Erasure)
class Erasures(ReadOnlyAdmin):
    """Requests to erase the data of persons. Once one is done, it does not say any more whom it was about."""

    list_display = ("asked_at", display.status(), "reason", "asked_by", "decided_by", "done_at")
    list_filter = ("status",)
    order = ("-id",)
    empty = _("Nobody has asked to be forgotten yet. Whoever does is erased here, or gets a file of the data.")
    fields = (
        display.status(), display.json("names", _("user ids and emails")), "client", "reason", "asked_by", "asked_at",
        "decided_by", "decided_at", "done_at", display.json("erased", _("rows erased")),
    )  # fmt: skip
    page_actions: Any = (
        Action(
            name="export",
            label=_("Export the data of a person"),
            explanation=_("Makes a file of all data about a person in all services. Give it to that person only."),
            permission="export_person",
            form=WhomForm,
            perform=_export,
            of_list=True,
        ),
        Action(
            name="request",
            label=_("Erase the data of a person"),
            explanation=_(
                "A second person has to approve. Orders and payments stay, under a pseudonym; nobody can undo this. "
                "The reason is kept: name nobody in it."
            ),
            permission="erase_person",
            form=WhomForm,
            perform=_request,
            of_list=True,
            destructive=True,
        ),
        Action(
            name="approve",
            label=_("Erase"),
            explanation=_("The data is erased at once, in all services. Nobody can undo this."),
            permission="erase_person",
            perform=_approve,
            is_possible=lambda row: row.status in (Status.WAITING, Status.RUNNING),
            destructive=True,
            resumable=True,  # what is half erased can be erased and not rejected
        ),
        Action(
            name="reject",
            label=_("Reject"),
            explanation=_("Nothing is erased."),
            permission="erase_person",
            perform=_reject,
            is_possible=lambda row: row.status == Status.WAITING,
        ),
    )

    def title_of(self, row: Any) -> str:
        """Whom it is about; once that is forgotten, why it was."""
        return ", ".join(row.names) or row.reason
