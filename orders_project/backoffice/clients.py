"""The clients of the API."""

from django.contrib import admin
from django.utils.translation import gettext_lazy as _

from common.admin import ReadOnlyAdmin
from orders_project.models import Client


@admin.register(Client)
class Clients(ReadOnlyAdmin):
    """The programs that may call the API, without their secrets."""

    list_display = ("client_id", "scopes", "created")
    search_by = ("client_id",)
    order = ("-id",)
    empty = _("No clients yet. Create one with `manage.py client create`.")
    fields = ("client_id", "scopes", "created", "updated")
