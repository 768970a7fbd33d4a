"""The paths of all endpoints."""

from collections.abc import Callable

from django.conf import settings
from django.contrib import admin
from django.http.response import HttpResponseBase
from django.urls import URLPattern, URLResolver, include, path, re_path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe

from .auth import oauth
from .grpc.gateway import GrpcOrder, GrpcOrders
from .http import messages, pages
from .observability import health, metrics


def read_only(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Allow only GET and HEAD. Other methods are answered with 405, and not with a CSRF failure."""
    return csrf_exempt(require_safe(view))


urlpatterns: list[URLPattern | URLResolver] = [
    re_path(r"^healthz?/?$", read_only(health.health), name="health"),
    re_path(r"^health/live/?$", read_only(health.live), name="live"),
    re_path(r"^health/ready/?$", read_only(health.is_ready), name="ready"),
    re_path(r"^health/started/?$", read_only(health.has_started), name="started"),
    re_path(r"^metrics/?$", read_only(metrics.view), name="metrics"),
]
# The endpoints of a service exist only in processes that serve it; the gateway (docker/nginx) routes requests.
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
        re_path(r"^asyncapi(?:\.(?P<suffix>yaml|json|html))?/?$", read_only(messages.document), name="asyncapi"),
        re_path(r"^event-types/?$", messages.EventTypes.as_view(), name="event-types"),
        re_path(r"^docs/?$", pages.Docs.as_view(), name="docs"),
        re_path(r"^redoc/?$", pages.Reference.as_view(), name="redoc"),
        path("redoc/redoc.js", read_only(pages.redoc_script), name="redoc-script"),
        re_path(r"^problems/?$", read_only(pages.problems), name="problems"),
        re_path(r"^problems/(?P<code>[a-z_]+)/?$", read_only(pages.problem), name="problem"),
        path(".well-known/jwks.json", read_only(oauth.jwks), name="jwks"),
        path(".well-known/oauth-authorization-server", read_only(oauth.metadata), name="oauth-metadata"),
        re_path(r"^oauth/token/?$", oauth.Token.as_view(), name="token"),
        path("admin/", admin.site.urls),  # after processing, whose /admin/products shares its prefix
    ]

handler400 = "orders_project.http.errors.bad_request"
handler403 = "orders_project.http.errors.permission_denied"
handler404 = "orders_project.http.errors.page_not_found"
handler500 = "orders_project.http.errors.server_error"
