"""The clients of the API."""

from typing import Any

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from common.admin import ReadOnlyAdmin
from orders_project.models import Client


@admin.display(description=_("client id"))
def client_id(client: Any) -> str:
    return str(client.client_id)


@admin.display(description=_("created at"))
def created_at(client: Any) -> Any:
    return client.created


@admin.register(Client)
class Clients(ReadOnlyAdmin):
    """The programs that may call the API, without their secrets."""

    list_display = (client_id, "scopes", created_at)
    search_by = ("client_id",)
    order = ("-id",)
    empty = _("No clients yet. Create one with `manage.py client create`.")
    fields = (client_id, "scopes", created_at)
    view_on_site = False

    def _name_of(self, field: str) -> Any:
        return client_id.short_description  # type: ignore[attr-defined]
