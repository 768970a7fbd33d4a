"""
The pages that say in the admin what went wrong, by the code of the problem or else by its status.

They read no database: one of them says that a database is not there.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from django.http import HttpRequest
from django.template.loader import render_to_string
from django.utils import translation
from django.utils.translation import gettext_lazy as _

from outbox import context

# For each: what happened, and what to do.
TEXTS: Mapping[str | int, tuple[Any, Any]] = {
    HTTPStatus.BAD_REQUEST: (
        _("The server does not understand this request"),
        _("Go back and try it again. If the address was typed by hand, look for a mistake in it."),
    ),
    HTTPStatus.FORBIDDEN: (
        _("You may not do this"),
        _("Your roles do not include it. Ask a colleague who manages the users, or log in as somebody else."),
    ),
    HTTPStatus.NOT_FOUND: (
        _("There is no such page"),
        _("The address is wrong, or what was here has been deleted. Look for it from the dashboard."),
    ),
    HTTPStatus.METHOD_NOT_ALLOWED: (
        _("This page cannot be asked for in this way"),
        _("Open it again from the dashboard."),
    ),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
        _("The form is too large"),
        _("Nothing was stored. Send less at once."),
    ),
    HTTPStatus.TOO_MANY_REQUESTS: (
        _("Too many requests"),
        _("Wait a minute, then try again."),
    ),
    HTTPStatus.INTERNAL_SERVER_ERROR: (
        _("The server made a mistake"),
        _("It has been logged. Look whether your change was made before you repeat it, and report the correlation id."),
    ),
    HTTPStatus.SERVICE_UNAVAILABLE: (
        _("A database is not responding"),
        _("Orders that were accepted are not lost: work goes on when the database is back. Try again in a moment. If"
          " this was a change, look whether it was made before you repeat it."),
    ),
    "csrf_failed": (
        _("The form is too old, or it came from another site"),
        _("Nothing was changed. Open the page again, then send the form once more. Your browser must accept cookies."),
    ),
    "cross_site": (
        _("The form came from another site"),
        _("Nothing was changed. Open the page here, then send the form."),
    ),
}  # fmt: skip


def content(code: str, status: int, *, request: HttpRequest) -> str:
    """Return the page for a problem with this code and status, in the language of the viewer."""
    title, advice = TEXTS.get(code) or TEXTS.get(status) or TEXTS[HTTPStatus.BAD_REQUEST]
    can_repeat = request.method in ("GET", "HEAD") and status >= HTTPStatus.TOO_MANY_REQUESTS
    with translation.override(translation.get_language_from_request(request)):
        return render_to_string(
            "admin/error.html",
            {
                "title": title,
                "advice": advice,
                "status": int(status),
                "again": request.get_full_path() if can_repeat else "",
                "correlation_id": context.current().correlation_id,
            },
        )
