"""The doors of the house."""

from django.conf import settings
from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path, re_path

from . import health, metrics, oauth, pages
from .grpc_gateway import GrpcOrder, GrpcOrders

urlpatterns: list[URLPattern | URLResolver] = [
    re_path(r"^healthz?/?$", health.health, name="health"),
    re_path(r"^health/live/?$", health.live, name="live"),
    re_path(r"^health/ready/?$", health.is_ready, name="ready"),
    re_path(r"^health/started/?$", health.has_started, name="started"),
    re_path(r"^metrics/?$", metrics.show, name="metrics"),
]
# A room has its doors where it is served; the gateway (docker/nginx) knows who serves what.
if "orders" in settings.ROOMS_HERE:
    urlpatterns += [
        re_path(r"^grpc/orders/?$", GrpcOrders.as_view(), name="grpc-orders"),
        re_path(r"^grpc/orders/(?P<order_id>[A-Za-z0-9._-]{1,64})/?$", GrpcOrder.as_view(), name="grpc-order"),
    ]
urlpatterns += [path("", include(f"{room}.urls")) for room in settings.ROOMS_HERE]
if settings.BACK_OFFICE:
    urlpatterns += [
        path("", pages.Root.as_view(), name="root"),
        re_path(r"^schema/?$", pages.Description.as_view(), name="schema"),
        re_path(r"^docs/?$", pages.Docs.as_view(), name="docs"),
        re_path(r"^redoc/?$", pages.Reference.as_view(), name="redoc"),
        path("redoc/redoc.js", pages.redoc_script, name="redoc-script"),
        path("problems/<slug:code>", pages.problem, name="problem"),
        path(".well-known/jwks.json", oauth.jwks, name="jwks"),
        path(".well-known/oauth-authorization-server", oauth.metadata, name="oauth-metadata"),
        re_path(r"^oauth/token/?$", oauth.Token.as_view(), name="token"),
        path("admin/", admin.site.urls),  # after processing, whose /admin/products shares its prefix
    ]

handler400 = "orders_project.errors.bad_request"
handler403 = "orders_project.errors.permission_denied"
handler404 = "orders_project.errors.page_not_found"
handler500 = "orders_project.errors.server_error"
