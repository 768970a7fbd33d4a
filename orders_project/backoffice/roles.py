"""
The built-in roles: viewer, operator, manager.

Each includes the one before. They are reset by every migration, so that the permissions of new pages and actions are
granted. For other combinations, create groups of your own.
"""

from typing import Any

from django.apps import apps
from django.utils.translation import gettext_lazy as _

VIEWS = ("orders", "payments", "processing", "orders_project", "admin")
ROLES: dict[str, tuple[str, ...]] = {
    "viewer": (),
    "operator": (
        "retry_order", "cancel_order", "capture_order", "refund_order", "replay_letter", "move_stock", "match_webhook",
        "resend_webhook",
    ),
    "manager": (
        "resolve_order", "approve", "discard_letter", "edit_product", "deposit", "correct_account", "refund_webhook",
        "discard_webhook", "edit_endpoint", "correct_message", "export_person", "erase_person",
    ),
}  # fmt: skip

TEXTS = {
    "viewer": _("sees everything except the users, and changes nothing"),
    "operator": _("helps orders on their way: retries, cancels, captures, refunds, replays, moves stock"),
    "manager": _("decides: approves, discards, corrects, and edits products, accounts and endpoints"),
}


def grant_permissions(sender: Any, using: str, **kwargs: Any) -> None:
    """
    Set the permissions of the roles. Called after migrations of `default`.

    # Note [Not in a migration]: permissions are created after all migrations have run, so a migration would find none.
    """
    if using != "default" or not apps.is_installed("django.contrib.auth"):
        return
    from django.contrib.auth.models import Group, Permission

    permissions = Permission.objects.using(using)
    granted = list(permissions.filter(content_type__app_label__in=VIEWS, codename__startswith="view_"))
    for role, codenames in ROLES.items():
        granted += permissions.filter(content_type__app_label="orders_project", codename__in=codenames)
        group, _created = Group.objects.using(using).get_or_create(name=role)
        group.permissions.set(granted)
