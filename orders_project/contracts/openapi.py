"""The API as OpenAPI 3.1: as `/schema` serves it, on a host of nobody's and for callers with a token."""

import json
from typing import Any

from django.conf import settings
from django.test.utils import override_settings
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer

HOST = "https://orders.example"


def document() -> dict[str, Any]:
    """Return the description of the API."""
    with override_settings(PUBLIC_URL=HOST, API_AUTH="required", CURRENCY="USD", CURRENCIES=("USD",)):
        schema = SchemaGenerator().get_schema(request=None, public=True)
    described: dict[str, Any] = json.loads(OpenApiJsonRenderer().render(schema, renderer_context={}))
    return {**described, "servers": [{"url": HOST}], "info": described["info"] | {"version": _version()}}


def _version() -> str:
    return str(settings.SPECTACULAR_SETTINGS["VERSION"])
