"""Users, roles, approvals, and the log of what people did."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.db.models import Q, QuerySet
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

OPERATOR_PERMISSIONS = dict(models.OperatorPermission._meta.permissions) | dict(models.Erasure._meta.permissions)
KINDS = {
    "view": _("sees: %(rows)s (%(service)s)"),
    "add": _("adds: %(rows)s (%(service)s)"),
    "change": _("changes: %(rows)s (%(service)s)"),
    "delete": _("deletes: %(rows)s (%(service)s)"),
}
# The tables of the services are written by the system only: see ReadOnlyAdmin.
ASKED_FOR = (
    Q(codename__in=OPERATOR_PERMISSIONS)
    | Q(codename__startswith="view_", content_type__app_label__in=roles.VIEWS)
    | Q(content_type__app_label="auth", content_type__model__in=["user", "group"])
)


class PermissionNames:
    """For a form that grants permissions: offers those that a page asks for, named in the language of the viewer."""

    def formfield_for_manytomany(self, db_field: Any, request: Any = None, **kwargs: Any) -> Any:
        field: Any = super().formfield_for_manytomany(db_field, request, **kwargs)  # type: ignore[misc]
        if db_field.related_model is Permission:
            field.label_from_instance = self._label
            field.queryset = field.queryset.filter(ASKED_FOR)
        return field

    @staticmethod
    def _label(permission: Permission) -> str:
        if name := OPERATOR_PERMISSIONS.get(permission.codename):
            return _g("may: %(permission)s") % {"permission": name}
        kind, _underscore, _model = permission.codename.partition("_")
        model = permission.content_type.model_class()
        if kind not in KINDS or model is None:
            return str(permission)
        names = {"service": model._meta.app_config.verbose_name, "rows": model._meta.verbose_name_plural}
        return KINDS[kind] % names


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


class Titled:
    """For a list with a form: both are called after what they show, as all others are."""

    title: Any
    title_of_one: Any
    title_of_new: Any

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        title = self.title_of_one if object_id else self.title_of_new
        extra = {"title": title, **(extra_context or {})}
        return super().changeform_view(request, object_id, form_url, extra)  # type: ignore[misc]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        return super().changelist_view(request, {"title": self.title, **(extra_context or {})})  # type: ignore[misc]


class OfRole(admin.RelatedFieldListFilter):
    """Users by their role."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.title = _("role")


@admin.register(Group)
class Roles(Titled, ValuesInHistory, PermissionNames, GroupAdmin):
    """The roles of operators."""

    list_display = ("name", "what_it_allows")
    title, title_of_one, title_of_new = _("Roles"), _("Role"), _("New role")
    search_help_text = _("A part of the name.")

    @admin.display(description=_("what it allows"))
    def what_it_allows(self, group: Any) -> Any:
        return roles.TEXTS.get(group.name, "")


@admin.register(User)
class Users(Titled, ValuesInHistory, PermissionNames, UserAdmin):
    """The users of the back office."""

    list_display = ("username", "first_name", "last_name", "role_names", "is_staff", "is_active", "last_login")
    list_filter = ("is_active", "is_staff", ("groups", OfRole))
    show_facets = admin.ShowFacets.NEVER
    title, title_of_one, title_of_new = _("Users"), _("User"), _("New user")
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

    def title_of(self, row: Any) -> str:
        return f"{row.user}: {row.object_repr}"

    list_display = ("action_time", "user", "content_type", what, action_done)
    list_filter = ("action_flag",)
    list_select_related = ("user", "content_type")
    search_by = ("object_id",)
    order = ("-id",)
    empty = _("No actions yet.")
    fields = ("action_time", "user", "content_type", what, action_done)


def _asked(text: Any) -> Callable[[Any], str]:
    """The explanation of a decision: what was asked for, by whom and why."""

    def explanation(approval: Any) -> str:
        about = {"name": approval.asked_by, "reason": approval.reason}
        return _g("Requested by %(name)s with the reason “%(reason)s”.") % about + f" {text}"

    return explanation


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
            explanation=_asked(_("The request is carried out immediately. The person who made it cannot approve it.")),
            permission="approve",
            perform=_approve,
            is_possible=_is_waiting,
            destructive=True,
        ),
        Action(
            name="reject",
            label=_("Reject"),
            explanation=_asked(_("Nothing is carried out. The request can be made again.")),
            permission="approve",
            perform=_reject,
            is_possible=_is_waiting,
        ),
    )

    def title_of(self, row: Any) -> str:
        return approvals.in_words(row)
