"""
What the admin kit needs to know about the project. The setting `ADMIN_KIT` gives it:

    ADMIN_KIT = {
        "PERMISSIONS": "backoffice",  # the app whose permissions actions ask for
        "SUBJECT_PAGE": "admin:shop_sale_change",  # the URL name of the page about what a message is about
        "PERFORMED_ACTIONS": "backoffice.PerformedAction",  # the model that remembers performed forms
    }
"""

from typing import Any

from django.apps import apps
from django.conf import settings


def permission(codename: str) -> str:
    """The full name of a permission that an action asks for."""
    return f"{settings.ADMIN_KIT['PERMISSIONS']}.{codename}"


def subject_page() -> str:
    """The URL name of the page about a message's subject."""
    return str(settings.ADMIN_KIT["SUBJECT_PAGE"])


def performed_actions() -> Any:
    """The model that remembers which forms have been performed: see common/performed_actions.py."""
    return apps.get_model(settings.ADMIN_KIT["PERFORMED_ACTIONS"])
