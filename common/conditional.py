"""Requests that count only for the version of a thing that the client has seen: If-Match."""

from django.utils.http import parse_etags
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request


def if_match(description: str) -> OpenApiParameter:
    """Return the parameter of an endpoint that accepts If-Match."""
    return OpenApiParameter("If-Match", str, OpenApiParameter.HEADER, description=description)


def etags_in(request: Request) -> set[str] | None:
    """Return the ETags that a request names with If-Match, without their quotes; None if it accepts any version."""
    header = request.headers.get("If-Match")
    if header is None or header.strip() == "*":
        return None
    # A weak one never matches: it keeps its W/.
    return {etag.strip('"') for etag in parse_etags(header)}
