"""
The built-in roles: viewer, operator and manager, of which each includes the one before; and shop, apart from them.

They are reset by every migration, so that the permissions of new pages and actions are granted. For other combinations,
create groups of your own.
"""

from typing import Any

from django.apps import apps
from django.utils.translation import gettext_lazy as _

from . import menu

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
# It sees these sections of the menu only, and nothing of what a platform team works with.
SHOP, SHOP_SECTIONS = "shop", ("shop", "books")
SHOP_MAY = ("cancel_order", "capture_order", "refund_order", "move_stock")

TEXTS = {
    SHOP: _("sees orders, products, money and stock; cancels, captures and refunds orders, and moves stock"),
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
    actions = permissions.filter(content_type__app_label="orders_project")
    granted = list(permissions.filter(content_type__app_label__in=VIEWS, codename__startswith="view_"))
    for role, codenames in ROLES.items():
        granted += actions.filter(codename__in=codenames)
        Group.objects.using(using).get_or_create(name=role)[0].permissions.set(granted)
    seen = [
        permissions.get(content_type__app_label=app, codename=f"view_{model}")
        for app, model in (key.split(".") for key in menu.models_of(SHOP_SECTIONS))
    ]
    may = [*seen, *actions.filter(codename__in=SHOP_MAY)]
    Group.objects.using(using).get_or_create(name=SHOP)[0].permissions.set(may)
