"""The doors of the house."""

from collections.abc import Callable

from django.conf import settings
from django.contrib import admin
from django.http.response import HttpResponseBase
from django.urls import URLPattern, URLResolver, include, path, re_path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe

from .auth import oauth
from .grpc.gateway import GrpcOrder, GrpcOrders
from .http import pages
from .observability import health, metrics


def window(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """To look through and no more: anything else is a wrong method, and not a form without its token."""
    return csrf_exempt(require_safe(view))


urlpatterns: list[URLPattern | URLResolver] = [
    re_path(r"^healthz?/?$", window(health.health), name="health"),
    re_path(r"^health/live/?$", window(health.live), name="live"),
    re_path(r"^health/ready/?$", window(health.is_ready), name="ready"),
    re_path(r"^health/started/?$", window(health.has_started), name="started"),
    re_path(r"^metrics/?$", window(metrics.show), name="metrics"),
]
# A service has its doors where it is served; the gateway (docker/nginx) knows who serves what.
if "orders" in settings.SERVICES_HERE:
    urlpatterns += [
        re_path(r"^grpc/orders/?$", GrpcOrders.as_view(), name="grpc-orders"),
        re_path(r"^grpc/orders/(?P<order_id>[A-Za-z0-9._-]{1,64})/?$", GrpcOrder.as_view(), name="grpc-order"),
    ]
urlpatterns += [path("", include(f"{service}.urls")) for service in settings.SERVICES_HERE]
if settings.BACK_OFFICE:
    urlpatterns += [
        path("", pages.Root.as_view(), name="root"),
        re_path(r"^schema/?$", pages.Description.as_view(), name="schema"),
        re_path(r"^docs/?$", pages.Docs.as_view(), name="docs"),
        re_path(r"^redoc/?$", pages.Reference.as_view(), name="redoc"),
        path("redoc/redoc.js", window(pages.redoc_script), name="redoc-script"),
        path("problems/<slug:code>", window(pages.problem), name="problem"),
        path(".well-known/jwks.json", window(oauth.jwks), name="jwks"),
        path(".well-known/oauth-authorization-server", window(oauth.metadata), name="oauth-metadata"),
        re_path(r"^oauth/token/?$", oauth.Token.as_view(), name="token"),
        path("admin/", admin.site.urls),  # after processing, whose /admin/products shares its prefix
    ]

handler400 = "orders_project.http.errors.bad_request"
handler403 = "orders_project.http.errors.permission_denied"
handler404 = "orders_project.http.errors.page_not_found"
handler500 = "orders_project.http.errors.server_error"
