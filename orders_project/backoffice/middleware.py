"""Times in the viewer's zone."""

import zoneinfo
from collections.abc import Callable
from functools import cache
from urllib.parse import unquote

from django.http import HttpRequest, HttpResponse
from django.utils import timezone

COOKIE = "timezone"


class ViewersZone:
    """Shows the back office's times in the zone that the browser has named (see static/backoffice/zone.js)."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        name = unquote(request.COOKIES.get(COOKIE, ""))
        if not request.path_info.startswith("/admin/") or name not in _zones():
            return self.get_response(request)
        with timezone.override(zoneinfo.ZoneInfo(name)):
            return self.get_response(request)


@cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())
