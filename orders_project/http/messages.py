"""What is sent in messages, events and webhooks: for programs in AsyncAPI and JSON, for people as a page."""

import json
from functools import cache
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils import translation
from django.utils.cache import patch_vary_headers
from django.utils.safestring import SafeString
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from common.parameters import StrictView

YAML, JSON, HTML = "application/yaml", "application/json", "text/html"
FORMS = {"yaml": YAML, "json": JSON, "html": HTML}


def document(request: HttpRequest, suffix: str | None = None) -> HttpResponse:
    """The messages in AsyncAPI 3, in the form of the suffix or else of the Accept header: YAML, JSON or a page."""
    form = FORMS[suffix] if suffix else request.get_preferred_type([YAML, JSON, HTML])
    answer = _page(request) if form == HTML else HttpResponse(_text(form or YAML), f"{form or YAML}; charset=utf-8")
    patch_vary_headers(answer, ["Accept"])
    return answer


def _page(request: HttpRequest) -> HttpResponse:
    """The page in the language of the viewer; what it shows of the document is in English, as the document is."""
    language = translation.get_language_from_request(request)
    with translation.override(language):
        shown = {"title": translation.gettext("Messages"), "site_title": admin.site.site_title}
        answer = render(request, "docs/messages.html", shown | {"content": _content(language)})
    answer["Content-Language"] = language
    patch_vary_headers(answer, ["Accept-Language", "Cookie"])
    return answer


# The document is the same as long as the process runs, so each form of it is made once.


@cache
def _document() -> dict[str, Any]:
    from orders_project.contracts import asyncapi  # needs all apps

    with translation.override(settings.LANGUAGE_CODE):
        return asyncapi.document()


@cache
def _text(form: str) -> str:
    from orders_project import contracts

    return json.dumps(_document(), indent=2, ensure_ascii=False) if form == JSON else contracts.text_of(_document())


@cache
def _content(language: str) -> SafeString:
    from orders_project.contracts import page

    return render_to_string("docs/messages_content.html", page.content(_document()))


@cache
def _event_types() -> list[dict[str, Any]]:
    from orders_project.contracts import events

    return events.event_types(_document())


class EventTypeSerializer(serializers.Serializer[Any]):
    """A type of event, as webhooks tell of it."""

    type = serializers.CharField()
    description = serializers.CharField()
    schema = serializers.DictField(help_text="The body of the webhook, in JSON Schema.")
    example = serializers.DictField(help_text="Such a body.")


class EventTypesSerializer(serializers.Serializer[Any]):
    """All types of events, on one page."""

    results = EventTypeSerializer(many=True)
    next = serializers.URLField(allow_null=True, help_text="There is no next page.")


class EventTypes(StrictView):
    """The types of events."""

    public_methods = ("GET", "HEAD")

    @extend_schema(operation_id="list_event_types", responses=EventTypesSerializer)
    def get(self, request: Request) -> Response:
        """List the types of events that webhooks tell of, each with the schema of its body and an example."""
        return Response({"results": _event_types(), "next": None})
