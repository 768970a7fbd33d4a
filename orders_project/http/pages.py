"""The start page, the description of the API, and what the codes of problems mean."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.staticfiles import finders
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.templatetags.static import static
from django.utils import translation
from django.utils.cache import get_conditional_response, patch_vary_headers
from django.utils.encoding import force_bytes
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView, SpectacularRedocView, SpectacularSwaggerSplitView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from .errors import Problem
from .middleware import ContentSecurity
from .problem_types import STATUS, meaning

ENDPOINTS = {
    "orders": "/orders",
    "an order": "/orders/{order_id}",
    "its history": "/orders/{order_id}/events",
    "cancel it": "/orders/{order_id}/cancel",
    "its payment": "/orders/{order_id}/payment",
    "capture it": "/orders/{order_id}/capture",
    "its refunds": "/orders/{order_id}/refunds",
    "a refund": "/orders/{order_id}/refunds/{refund_id}",
    "orders by gRPC": "/grpc/orders",
    "an order by gRPC": "/grpc/orders/{order_id}",
    "products": "/products",
    "a product": "/products/{product_id}",
    "add products": "/admin/products",
    "change a product": "/admin/products/{product_id}",
    "accounts": "/accounts?user_id={user_id}",
    "deposit": "/accounts/{user_id}/deposit",
    "balance": "/accounts/{user_id}/balance",
    "entries": "/accounts/{user_id}/entries",
    "statement": "/accounts/{user_id}/statement",
    "payment webhooks": "/webhooks/payments/{gateway}",
    "tokens": "/oauth/token",
    "public keys": "/.well-known/jwks.json",
    "the back office": "/admin/",
    "health": "/health",
    "metrics": "/metrics",
    "schema": "/schema",
    "messages": "/asyncapi",
    "problems": "/problems",
    "event types": "/event-types",
    "webhook endpoints": "/webhook-endpoints",
    "a webhook endpoint": "/webhook-endpoints/{endpoint_id}",
    "rotate its secret": "/webhook-endpoints/{endpoint_id}/rotate",
    "ping it": "/webhook-endpoints/{endpoint_id}/ping",
    "its deliveries": "/webhook-endpoints/{endpoint_id}/deliveries",
    "resend one": "/webhook-endpoints/{endpoint_id}/deliveries/{delivery_id}/resend",
    "documents": "/docs",
    "reference": "/redoc",
}


class Root(APIView):
    """All endpoints."""

    public_methods = ("GET", "HEAD")

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        """The endpoints, by name."""
        return Response({name: settings.PUBLIC_URL + path for name, path in ENDPOINTS.items()})


class Description(SpectacularAPIView):
    """
    The API in OpenAPI 3.1, as YAML or JSON.

    It is the same for everybody as long as the process runs, and takes a third of a second to make: so each form of it
    is made once.
    """

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponse:
        renderer = request.accepted_renderer
        answer = HttpResponse(_description(str(renderer.format)), renderer.media_type)
        answer["Content-Disposition"] = f'inline; filename="Orders.{renderer.format}"'
        answer["Cache-Control"] = "public, max-age=300"
        answer["ETag"] = f'"{hashlib.sha256(answer.content).hexdigest()[:32]}"'
        return get_conditional_response(request._request, etag=answer["ETag"], response=answer) or answer


@cache
def _description(form: str) -> bytes:
    renderer = next(one for one in Description.renderer_classes if one.format == form)
    with translation.override(settings.LANGUAGE_CODE):
        schema = SchemaGenerator().get_schema(request=None, public=True)
        return force_bytes(renderer().render(schema, renderer_context={}))


class Docs(SpectacularSwaggerSplitView):
    """The documentation of the API, with forms to try it (Swagger UI)."""

    url_name = "schema"


class Reference(SpectacularRedocView):
    """The documentation of the API (Redoc)."""

    url_name = "schema"

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        answer: Response = super().get(request, *args, **kwargs)
        # Redoc has inline styles, and searches in a worker that it creates from a blob.
        allowed = ContentSecurity.POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
        answer["Content-Security-Policy"] = f"{allowed}; worker-src 'self' blob:"
        return answer


@cache
def _redoc() -> str:
    found = finders.find("drf_spectacular_sidecar/redoc/bundles/redoc.standalone.js")
    return (
        Path(str(found)).read_text().replace("https://cdn.redoc.ly/redoc/logo-mini.svg", static("backoffice/icon.svg"))
    )


def redoc_script(request: HttpRequest) -> HttpResponse:
    """The script of Redoc, without the image that it would load from another host."""
    return HttpResponse(_redoc(), "text/javascript; charset=utf-8", headers={"Cache-Control": "public, max-age=3600"})


def problems(request: HttpRequest) -> HttpResponse:
    """All codes of problems, with their meanings."""
    return _in_language(request, lambda: {"results": [_described(code) for code in STATUS]})


def problem(request: HttpRequest, code: str) -> HttpResponse:
    """The page that the `type` of a problem links to: the meaning of its code."""
    if code not in STATUS:
        raise Http404
    return _in_language(request, lambda: _described(code))


def _described(code: str) -> dict[str, Any]:
    status = STATUS[code]
    title = Problem(status, code, "").title
    return {"code": code, "title": title, "status": int(status), "meaning": meaning(code)}


def _in_language(request: HttpRequest, body: Callable[[], dict[str, Any]]) -> HttpResponse:
    """An answer in the language of the caller."""
    language = translation.get_language_from_request(request)
    with translation.override(language):
        answer = JsonResponse(body(), json_dumps_params={"ensure_ascii": False})
    answer["Content-Language"] = language
    patch_vary_headers(answer, ["Accept-Language", "Cookie"])
    return answer
