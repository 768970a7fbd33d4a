"""Users, roles, approvals, and the log of what people did."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.admin import Action, ActionCall, Age, ReadOnlyAdmin, display
from orders_project import models
from orders_project.models import Approval

from . import approvals

SUBJECT_PAGES = {
    "compensate_order": ("orders", "order"),
    "refund_webhook": ("payments", "webhookreceipt"),
    "settle_payment": ("payments", "payment"),
}
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


@admin.register(Group)
class Roles(PermissionNames, GroupAdmin):
    """The roles of operators."""


@admin.register(User)
class Users(PermissionNames, UserAdmin):
    """The users of the back office."""


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
    service, model = SUBJECT_PAGES[approval.verb]
    return display.page_link(service, model, approval.subject, approval.subject)


@admin.register(Approval)
class Approvals(ReadOnlyAdmin):
    """Requests that need a second person, and the decisions on them."""

    list_display = (
        "verb", subject, display.amount("amount", _("amount")), display.status(), "asked_by", "reason",
        "asked_at", "decided_by",
    )  # fmt: skip
    list_filter = ("status", Age)
    search_by = ("subject",)
    order = ("-id",)
    empty = _("Nothing is waiting for approval.")
    fields = (
        "verb", subject, display.amount("amount", _("amount")), display.status(), "reason", "asked_by",
        "asked_at", "decided_by", "decided_at",
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
