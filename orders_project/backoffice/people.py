"""What people did here: every verb and every edit, by whom and when."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.admin import Action, ActionCall, Age, ReadOnlyAdmin
from common.admin import display as show
from orders_project import models
from orders_project.models import Approval

from . import approvals

ABOUT = {"compensate_order": ("orders", "order"), "refund_webhook": ("payments", "webhookreceipt")}


VERBS = dict(models.Verb._meta.permissions)


class MayDo:
    """For a form that gives permissions: those to use a verb are named in the viewer's language."""

    def formfield_for_manytomany(self, db_field: Any, request: Any = None, **kwargs: Any) -> Any:
        field: Any = super().formfield_for_manytomany(db_field, request, **kwargs)  # type: ignore[misc]
        if db_field.related_model is Permission:
            field.label_from_instance = self._label
        return field

    @staticmethod
    def _label(permission: Permission) -> str:
        verb = VERBS.get(permission.codename)
        return _g("may: %(verb)s") % {"verb": verb} if verb else str(permission)


admin.site.unregister([Group, User])


@admin.register(Group)
class Roles(MayDo, GroupAdmin):
    """Roles."""


@admin.register(User)
class Users(MayDo, UserAdmin):
    """Who works here."""


@admin.display(description=_("object"))
def what(entry: Any) -> SafeString | str:
    url = entry.get_admin_url()
    return format_html('<a href="{}">{}</a>', url, entry.object_repr) if url else entry.object_repr


@admin.display(description=_("what was done"))
def done(entry: Any) -> str:
    return str(entry.get_change_message())


@admin.register(LogEntry)
class Actions(ReadOnlyAdmin):
    """What people did."""

    list_display = ("action_time", "user", "content_type", what, done)
    list_filter = ("action_flag",)
    list_select_related = ("user", "content_type")
    search_by = ("object_id",)
    order = ("-id",)
    empty = _("Nobody has done anything here yet.")
    fields = ("action_time", "user", "content_type", what, done)


def _waits(approval: Any) -> bool:
    return approval.status == Approval.Status.WAITING


def _approve(call: ActionCall) -> None:
    approvals.decide(approval=call.row, approve=True, by=call.actor, now=call.now)


def _reject(call: ActionCall) -> None:
    approvals.decide(approval=call.row, approve=False, by=call.actor, now=call.now)


@admin.display(description=_("subject"))
def subject(approval: Any) -> SafeString | str:
    service, model = ABOUT[approval.verb]
    return show.page_link(service, model, approval.subject, approval.subject)


@admin.register(Approval)
class Approvals(ReadOnlyAdmin):
    """What waits for a second person, and what became of it."""

    list_display = (
        "verb", subject, show.amount("amount", _("amount")), show.status(), "asked_by", "reason",
        "asked_at", "decided_by",
    )  # fmt: skip
    list_filter = ("status", Age)
    search_by = ("subject",)
    order = ("-id",)
    empty = _("Nothing waits for a second person.")
    fields = (
        "verb", subject, show.amount("amount", _("amount")), show.status(), "reason", "asked_by",
        "asked_at", "decided_by", "decided_at",
    )  # fmt: skip
    page_actions = (
        Action(
            name="approve",
            label=_("Approve"),
            explanation=_("It is carried out at once. Who asked for it can't approve it."),
            permission="orders_project.approve",
            perform=_approve,
            is_possible=_waits,
            destructive=True,
        ),
        Action(
            name="reject",
            label=_("Reject"),
            explanation=_("Nothing happens; it can be asked for again."),
            permission="orders_project.approve",
            perform=_reject,
            is_possible=_waits,
        ),
    )
