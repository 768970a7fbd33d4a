"""
The roles that come with the system: viewer, operator, manager.

They are this table, each including the one before. Who needs another cut makes a group of their own: these three are
set anew by every migration, so that a new page or verb reaches whom it is meant for.
"""

from typing import Any

from django.apps import apps

VIEWS = ("orders", "payments", "processing", "orders_project", "admin")
ROLES: dict[str, tuple[str, ...]] = {
    "viewer": (),
    "operator": ("retry_order", "cancel_order", "replay_letter", "move_stock", "match_webhook", "resend_webhook"),
    "manager": (
        "resolve_order", "approve", "discard_letter", "edit_product", "deposit", "correct_account", "refund_webhook",
        "discard_webhook", "edit_endpoint",
    ),
}  # fmt: skip


def settle(sender: Any, using: str, **kwargs: Any) -> None:
    """
    Make the roles what the table says. Called after migrations of `default`.

    # Note [Not in a migration]: permissions are made after all migrations have run, so a migration would find none.
    """
    if using != "default" or not apps.is_installed("django.contrib.auth"):
        return
    from django.contrib.auth.models import Group, Permission

    permissions = Permission.objects.using(using)
    granted = list(permissions.filter(content_type__app_label__in=VIEWS, codename__startswith="view_"))
    for role, verbs in ROLES.items():
        granted += permissions.filter(content_type__app_label="orders_project", codename__in=verbs)
        group, _made = Group.objects.using(using).get_or_create(name=role)
        group.permissions.set(granted)
