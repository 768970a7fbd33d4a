"""Users, roles, approvals, and the log of what people did."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.admin import Action, ActionCall, Age, ReadOnlyAdmin, display
from orders_project import models
from orders_project.models import Approval

from . import approvals, roles
from .colleagues import Colleague, NewColleague

OPERATOR_PERMISSIONS = dict(models.OperatorPermission._meta.permissions)


class PermissionNames:
    """For a form that grants permissions: names those of operators in the language of the viewer."""

    def formfield_for_manytomany(self, db_field: Any, request: Any = None, **kwargs: Any) -> Any:
        field: Any = super().formfield_for_manytomany(db_field, request, **kwargs)  # type: ignore[misc]
        if db_field.related_model is Permission:
            field.label_from_instance = self._label
        return field

    @staticmethod
    def _label(permission: Permission) -> str:
        name = OPERATOR_PERMISSIONS.get(permission.codename)
        return _g("may: %(permission)s") % {"permission": name} if name else str(permission)


admin.site.unregister([Group, User])


class ValuesInHistory:
    """For a page with a form: the history says of each field that was changed what it was and what it is."""

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        if add:
            return [{"added": {}}]
        return [{"changed": {"fields": [_change(form, name) for name in form.changed_data]}}]


def _change(form: Any, name: str) -> str:
    label = str(form.fields[name].label or name)
    if "password" in name:
        return label
    before, after = form.get_initial_for_field(form.fields[name], name), form.cleaned_data[name]
    return f"{label} ({_shown(before)} → {_shown(after)})"


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple | QuerySet):
        return ", ".join(str(one) for one in value) or display.NOTHING
    return str(value) if value not in (None, "") else display.NOTHING


@admin.register(Group)
class Roles(ValuesInHistory, PermissionNames, GroupAdmin):
    """The roles of operators."""

    list_display = ("name", "what_it_allows")
    search_help_text = _("A part of the name.")

    @admin.display(description=_("what it allows"))
    def what_it_allows(self, group: Any) -> Any:
        return roles.TEXTS.get(group.name, "")


@admin.register(User)
class Users(ValuesInHistory, PermissionNames, UserAdmin):
    """The users of the back office."""

    list_display = ("username", "first_name", "last_name", "role_names", "is_staff", "is_active", "last_login")
    list_filter = ("is_active", "is_staff", "groups")
    add_form_template = None
    search_help_text = _("A part of the name or of the email address.")
    form = Colleague
    add_form = NewColleague
    filter_horizontal = ("user_permissions",)
    fieldsets = (
        (None, {"fields": ("username", "password", "first_name", "last_name", "email")}),
        (_("What this person may do"), {"fields": ("is_active", "is_staff", "groups")}),
        (_("More permissions"), {"classes": ("collapse",), "fields": ("is_superuser", "user_permissions")}),
        (_("Dates"), {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = (
        (None, {"fields": ("username", "first_name", "last_name", "email", "groups")}),
        (_("Password"), {"fields": ("usable_password", "password1", "password2")}),
    )
    readonly_fields = ("last_login", "date_joined")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody is deleted: the log of what a person did would go as well. A colleague who leaves is made inactive."""
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).prefetch_related("groups")

    @admin.display(description=_("roles"))
    def role_names(self, user: User) -> str:
        return ", ".join(group.name for group in user.groups.all()) or display.NOTHING


@admin.display(description=_("object"))
def what(entry: Any) -> SafeString | str:
    url = entry.get_admin_url()
    return format_html('<a href="{}">{}</a>', url, entry.object_repr) if url else entry.object_repr


@admin.display(description=_("action"))
def action_done(entry: Any) -> str:
    return str(entry.get_change_message())


@admin.register(LogEntry)
class Actions(ReadOnlyAdmin):
    """The log of what people did."""

    list_display = ("action_time", "user", "content_type", what, action_done)
    list_filter = ("action_flag",)
    list_select_related = ("user", "content_type")
    search_by = ("object_id",)
    order = ("-id",)
    empty = _("No actions yet.")
    fields = ("action_time", "user", "content_type", what, action_done)


def _is_waiting(approval: Any) -> bool:
    return approval.status == Approval.Status.WAITING


def _approve(call: ActionCall) -> None:
    approvals.decide(approval=call.row, approve=True, by=call.actor, now=call.now)


def _reject(call: ActionCall) -> None:
    approvals.decide(approval=call.row, approve=False, by=call.actor, now=call.now)


@admin.display(description=_("subject"))
def subject(approval: Any) -> SafeString | str:
    service, model, _action = approval.verb.split(".")
    return display.page_link(service, model, approval.subject, approval.subject)


@admin.display(description=_("action"))
def verb(approval: Any) -> str:
    return str(approvals.action_of(approval)[1].label)


@admin.register(Approval)
class Approvals(ReadOnlyAdmin):
    """Requests that need a second person, and the decisions on them."""

    list_display = (
        verb, subject, display.amount("amount", _("amount")), display.status(), "asked_by", "reason",
        "asked_at", "decided_by",
    )  # fmt: skip
    list_filter = ("status", Age)
    search_by = ("subject",)
    order = ("-id",)
    empty = _("Nothing is waiting for approval.")
    fields = (
        verb, subject, display.amount("amount", _("amount")), display.status(), "reason", "asked_by",
        display.json("call", _("values")), "asked_at", "decided_by", "decided_at",
    )  # fmt: skip
    page_actions = (
        Action(
            name="approve",
            label=_("Approve"),
            explanation=_("The request is carried out immediately. The person who made it cannot approve it."),
            permission="approve",
            perform=_approve,
            is_possible=_is_waiting,
            destructive=True,
        ),
        Action(
            name="reject",
            label=_("Reject"),
            explanation=_("Nothing is carried out. The request can be made again."),
            permission="approve",
            perform=_reject,
            is_possible=_is_waiting,
        ),
    )
