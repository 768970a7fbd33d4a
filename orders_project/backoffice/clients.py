"""The clients of the API."""

from typing import Any

from django import forms
from django.contrib import admin
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from common.admin import Action, ActionCall, ConfirmationForm, ReadOnlyAdmin, ShownOnce, display
from common.principal import SCOPES
from orders_project.auth import clients
from orders_project.models import Client


@admin.display(description=_("client id"))
def client_id(client: Any) -> str:
    return str(client.client_id)


@admin.display(description=_("created at"))
def created_at(client: Any) -> Any:
    return display.time_text(client.created)


class NewClient(ConfirmationForm):
    """Asks for what differs between clients: all of them get their tokens with their own secret."""

    client_id = forms.RegexField(
        clients.CLIENT_ID,
        label=_("Client id"),
        max_length=100,
        help_text=_(
            "The name of the program: letters, digits, dots, hyphens and underscores. It owns what it creates."
        ),
    )
    scopes = forms.MultipleChoiceField(
        label=_("Scopes"),
        choices=[(scope, format_lazy("{}: {}", scope, _(meaning))) for scope, meaning in SCOPES.items()],
        widget=forms.CheckboxSelectMultiple,
        help_text=_("What the client may do. Give it no more than it needs."),
    )


def _create(call: ActionCall) -> ShownOnce:
    return ShownOnce(_("Client secret"), clients.create(name=call.values["client_id"], scopes=call.values["scopes"]))


def _renew(call: ActionCall) -> ShownOnce:
    return ShownOnce(_("Client secret"), clients.renew_secret(client=call.row))


@admin.register(Client)
class Clients(ReadOnlyAdmin):
    """The programs that may call the API, without their secrets."""

    list_display = (client_id, "scopes", created_at)
    search_by = ("client_id",)
    order = ("-id",)
    empty = _("No clients yet. Create one here or with `manage.py client create`.")
    fields = (client_id, "scopes", created_at)
    view_on_site = False
    page_actions = (
        Action(
            name="create",
            label=_("Create a client"),
            explanation=_("A program gets tokens with its client id and its secret, which is shown once."),
            permission="edit_client",
            form=NewClient,
            perform=_create,
            of_list=True,
        ),
        Action(
            name="secret",
            label=_("Give it a new secret"),
            keep=_("Keep the secret"),
            explanation=_(
                "The old secret gets no more tokens from now on. A token that was issued works until it expires."
            ),
            permission="edit_client",
            perform=_renew,
            destructive=True,
        ),
    )

    def _name_of(self, field: str) -> Any:
        return client_id.short_description  # type: ignore[attr-defined]
