"""Pages in the language and the time zone of the viewer."""

import zoneinfo
from collections.abc import Callable
from functools import cache
from typing import Any
from urllib.parse import unquote

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.middleware.locale import LocaleMiddleware
from django.utils import timezone, translation

from orders_project.http.errors import wants_html

COOKIE = "timezone"


class ViewersLanguage(LocaleMiddleware):
    """The language of the viewer for HTML pages. The API is in English for everybody, because programs read it."""

    def process_request(self, request: HttpRequest) -> None:
        if wants_html(request):
            super().process_request(request)
        else:
            translation.activate(settings.LANGUAGE_CODE)

    def process_response(self, request: HttpRequest, response: Any) -> Any:
        return super().process_response(request, response) if wants_html(request) else response


class ViewersZone:
    """The time zone that the browser has sent, for HTML pages (see static/backoffice/zone.js)."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        name = unquote(request.COOKIES.get(COOKIE, ""))
        if not wants_html(request) or name not in _zones():
            return self.get_response(request)
        with timezone.override(zoneinfo.ZoneInfo(name)):
            return self.get_response(request)


@cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())
