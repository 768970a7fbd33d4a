"""The menu of the back office: what a shop works with, and what a platform team works with."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.text import capfirst
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

DEAD_LETTERS = "dead_letters"  # the page over all services

# The models of each section, in the order of the menu. A model that is not here is in the section `REST`.
SECTIONS: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    (
        "shop",
        _("Shop"),
        (
            "orders.order", "processing.product", "payments.account", "payments.payment", "payments.refund",
            "payments.dispute", "orders_project.approval", "orders_project.bulkrun",
        ),
    ),
    (
        "books",
        _("Money and stock"),
        (
            "payments.entry", "payments.difference", "payments.reconciliation", "payments.gatewaytransaction",
            "processing.stockmovement", "processing.hold",
        ),
    ),
    (
        "platform",
        _("Platform"),
        (
            DEAD_LETTERS, "payments.webhookreceipt", "orders.webhookendpoint", "orders.webhookdelivery",
            "orders_project.client", "orders.orderevent", "processing.processing",
        ),
    ),
    ("people", _("People"), ("auth.user", "auth.group", "admin.logentry")),
)  # fmt: skip
REST = "platform"
SHARED = ("Outgoing", "Incoming", "DeadLetter", "IdempotencyKey")  # tables that several services have


def models_of(names: Iterable[str]) -> list[str]:
    """Return the models of these sections, as `app.model`."""
    return [key for name, _title, keys in SECTIONS if name in names for key in keys if key != DEAD_LETTERS]


def sections(apps: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the models of these apps, which a person may see, by section; a section without any is left out."""
    found = {key: entry for app in apps for key, entry in _entries(app)}
    if any(key.endswith(".deadletter") for key in found):
        found[DEAD_LETTERS] = _link(_g("Dead letters"), "admin:dead_letters")
    named = {key for _name, _title, keys in SECTIONS for key in keys}
    rest = sorted(found.keys() - named, key=lambda key: (_place(found[key]), key))
    menu = []
    for name, title, keys in SECTIONS:
        models = [found[key] for key in (*keys, *(rest if name == REST else ())) if key in found]
        if models:
            menu.append({"name": title, "app_label": name, "app_url": "", "has_module_perms": True, "models": models})
    return menu


def current(menu: Iterable[Mapping[str, Any]], request: HttpRequest) -> str:
    """Return the URL of the entry to which this page belongs; "" if there is none."""
    urls = (entry["admin_url"] for section in menu for entry in section["models"] if entry["admin_url"])
    return max((url for url in urls if request.path.startswith(url)), key=len, default="")


def url_of(name: str, menu: Iterable[Mapping[str, Any]]) -> str:
    """Return the URL of this entry; "" if the menu does not have it."""
    return next((entry["admin_url"] for part in menu for entry in part["models"] if entry["object_name"] == name), "")


def _entries(app: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in app["models"]:
        key = f"{app['app_label']}.{entry['object_name']}".lower()
        if entry["object_name"] in SHARED:
            entry = entry | {"name": f"{capfirst(str(entry['name']))}: {app['name']}"}
        yield key, entry | {"object_name": key.replace(".", "-"), "table": entry["object_name"]}


def _link(name: str, page: str) -> dict[str, Any]:
    return {"name": name, "object_name": page.rpartition(":")[2], "admin_url": reverse(page), "table": ""}


def _place(entry: Mapping[str, Any]) -> int:
    return SHARED.index(entry["table"]) if entry["table"] in SHARED else len(SHARED)
