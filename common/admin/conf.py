"""
What the admin kit needs to know about the project. The setting `ADMIN_KIT` gives it:

    ADMIN_KIT = {
        "PERMISSIONS": "backoffice",  # the app whose permissions actions ask for
        "SUBJECT_PAGE": "admin:shop_sale_change",  # the URL name of the page about what a message is about
        "PERFORMED_ACTIONS": "backoffice.PerformedAction",  # the model that remembers performed forms; an app whose
                                                            # tables are in a database of their own has one as well
        "REQUEST_APPROVAL": "backoffice.approvals.request",  # called where a second person is needed: see actions.py
        "SAVED_FILTERS": "backoffice.SavedFilter",  # the model of saved filters: see saved_filters.py
        "BULK_RUNS": "backoffice.BulkRun",  # the model of runs over many rows: see bulk_runs.py
    }
"""

from typing import Any

from django.apps import apps
from django.conf import settings
from django.utils.module_loading import import_string


def permission(codename: str) -> str:
    """The full name of a permission that an action asks for."""
    return f"{settings.ADMIN_KIT['PERMISSIONS']}.{codename}"


def subject_page() -> str:
    """The URL name of the page about a message's subject."""
    return str(settings.ADMIN_KIT["SUBJECT_PAGE"])


def performed_actions(app_label: str = "") -> Any:
    """
    The model that remembers which forms have been performed: see common/performed_actions.py.

    That of an app is in the database of its tables; without one, it is that of the back office.
    """
    try:
        return apps.get_model(app_label, "PerformedAction")
    except LookupError:
        return apps.get_model(settings.ADMIN_KIT["PERFORMED_ACTIONS"])


def request_approval(**what: Any) -> str:
    """Have an action wait for a second person; return what to tell the first one."""
    return str(import_string(settings.ADMIN_KIT["REQUEST_APPROVAL"])(**what))


def saved_filters() -> Any:
    """The model of saved filters."""
    return apps.get_model(settings.ADMIN_KIT["SAVED_FILTERS"])


def bulk_runs() -> Any:
    """The model of runs over many rows; `rows` leads to the rows of one."""
    return apps.get_model(settings.ADMIN_KIT["BULK_RUNS"])
