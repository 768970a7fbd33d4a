"""
What the API is going to lose: told in each answer that it concerns (RFC 9745, RFC 8594) and in its description.

`DEPRECATED` is the one table; docs/api.md says how long its entries stay there.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.http import http_date

NOTICE = timedelta(days=180)  # at least, between the deprecation of something and its end
PARAMETER = re.compile(r"\\{\w+\\}")  # of a path, escaped


@dataclass(frozen=True, kw_only=True)
class Deprecated:
    """
    An operation that is deprecated, or one parameter of its query or field of its body.

    :param operation: as in the description: `GET /orders/{order_id}`
    :param name: of the parameter or field; empty: the operation itself
    :param instead: what to use, as a sentence

    :raises ValueError: if it ends too soon
    """

    operation: str
    name: str = ""
    since: date
    ends: date
    instead: str

    def __post_init__(self) -> None:
        if self.ends - self.since < NOTICE:
            raise ValueError(f"{self.operation} {self.name} is deprecated for less than {NOTICE.days} days.")

    def concerns(self, request: HttpRequest) -> bool:
        """Whether this request uses it."""
        method, _, path = self.operation.partition(" ")
        asked = "GET" if request.method == "HEAD" else request.method
        if asked != method or not re.fullmatch(PARAMETER.sub("[^/]+", re.escape(path)) + "/?", request.path_info):
            return False
        return not self.name or self.name in request.GET or self.name in _fields(request)


DEPRECATED: Sequence[Deprecated] = ()


def _fields(request: HttpRequest) -> Any:
    """The fields of a request's JSON body, which stays readable."""
    if request.content_type != "application/json":
        return ()
    try:
        body = json.loads(request.body)
    except (ValueError, OSError, RecursionError):
        return ()  # the view says what is wrong
    return body if isinstance(body, dict) else ()


class Deprecations:
    """Middleware that tells a client which of what it uses is deprecated."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        used = [one for one in DEPRECATED if one.concerns(request)]
        response = self.get_response(request)
        if used:
            response["Deprecation"] = f"@{int(_midnight(min(one.since for one in used)))}"
            response["Sunset"] = http_date(_midnight(min(one.ends for one in used)))
            link = f'<{settings.PUBLIC_URL}/docs>; rel="deprecation"; type="text/html"'
            response["Link"] = f"{response['Link']}, {link}" if "Link" in response else link
        return response


def _midnight(day: date) -> float:
    return datetime.combine(day, time(), UTC).timestamp()


def describe(operation: str, described: dict[str, Any], components: dict[str, Any]) -> None:
    """Mark in the description of an operation what of it is deprecated."""
    for one in DEPRECATED:
        if one.operation == operation:
            for part in _parts(one, described, components):
                part["deprecated"] = True
                told = f"Deprecated since {one.since}, ends on {one.ends}. {one.instead}"
                part["description"] = "\n\n".join(filter(None, (part.get("description"), told)))


def _parts(one: Deprecated, described: dict[str, Any], components: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not one.name:
        yield described
    yield from (parameter for parameter in described.get("parameters", ()) if parameter["name"] == one.name)
    for content in described.get("requestBody", {}).get("content", {}).values():
        fields = components["schemas"][content["schema"]["$ref"].rpartition("/")[2]]["properties"]
        yield from (schema for name, schema in fields.items() if name == one.name)
