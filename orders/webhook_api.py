"""The HTTP API of webhook endpoints: a client registers its own, and sees what was sent to them."""

from collections.abc import Callable
from typing import Any, ClassVar

from django.db.models import Prefetch, QuerySet
from django.http import HttpResponse
from django.urls import reverse
from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import ListSerializer, Serializer

from common import client_limits
from common.conditional import etags_in, if_match
from common.html_forms import WithForm
from common.idempotency import PARAMETER, answer_once
from common.pagination import Filters, KeysetPagination
from common.principal import principal_of
from outbox import clock
from outbox.conflicts import retry_on_conflict

from . import webhook_endpoints, webhooks
from .models import IdempotencyKey, WebhookAttempt, WebhookDelivery, WebhookEndpoint
from .webhook_serializers import (
    DeliverySerializer,
    EndpointChangeSerializer,
    EndpointWithSecretSerializer,
    NewEndpointSerializer,
    WebhookEndpointSerializer,
)

IF_MATCH = if_match("The ETag of the endpoint that you have seen; another version of it is left alone.")
SECRET = "secret"  # noqa: S105 - the name of the field that is never stored with an answer
LOG = Prefetch("log", queryset=WebhookAttempt.objects.defer("response"))


class NewestFirst(KeysetPagination):
    """Endpoints or deliveries, the newest first."""

    ordering = ("-id",)


class OfEndpoints(WithForm):
    """The base of all of them."""

    scope = "webhooks"
    pagination_class = NewestFirst

    def once(
        self, request: Request, perform: Callable[[], HttpResponse], prepare: Callable[[], None] | None = None
    ) -> HttpResponse:
        """Answer once for each Idempotency-Key. A secret is not stored with the answer."""
        principal = principal_of(request).name
        return answer_once(
            self,
            request,
            perform,
            answers=IdempotencyKey,
            principal=principal,
            prepare=prepare,
            not_stored=(SECRET,),
        )

    def counted(self, request: Request, perform: Callable[[], HttpResponse]) -> HttpResponse:
        """Count a request that has no Idempotency-Key, as `once` does, and answer it."""
        return client_limits.counted(request._request, perform, principal=principal_of(request).name)


class Endpoints(OfEndpoints):
    """The webhook endpoints of a client."""

    serializer_class = NewEndpointSerializer
    queryset = WebhookEndpoint.objects.none()
    wanted: dict[str, Any]  # what was asked for and is valid

    @extend_schema(operation_id="list_webhook_endpoints", responses=WebhookEndpointSerializer(many=True))
    def get(self, request: Request) -> Response:
        """List webhook endpoints, the newest first, in pages."""
        page = self.paginate_queryset(webhook_endpoints.endpoints_of(principal_of(request)))
        return self.get_paginated_response(ListSerializer(page, child=WebhookEndpointSerializer()).data)

    @extend_schema(
        operation_id="register_webhook_endpoint",
        parameters=[PARAMETER],
        request={"application/json": NewEndpointSerializer},
        responses={201: EndpointWithSecretSerializer},
    )
    @retry_on_conflict
    def post(self, request: Request) -> HttpResponse:
        """Register an endpoint, which will be sent the events of your orders. Only this answer has its secret."""
        return self.once(request, lambda: self.register(request), prepare=lambda: self.check(request))

    def check(self, request: Request) -> None:
        asked = self.asked = NewEndpointSerializer(data=request.data, context=self.get_serializer_context())
        asked.is_valid(raise_exception=True)
        self.wanted = asked.validated_data
        webhook_endpoints.look_up(url=self.wanted["url"])

    def register(self, request: Request) -> Response:
        name = principal_of(request).name
        endpoint = webhook_endpoints.register(**self.wanted, principal=name, actor=name, now=clock.now("orders"))
        location = reverse("webhook-endpoint", args=[endpoint.pk])
        return shown(endpoint, EndpointWithSecretSerializer, status=201, headers={"Location": location})


class OneEndpoint(OfEndpoints):
    """One webhook endpoint."""

    serializer_class = EndpointChangeSerializer

    @extend_schema(operation_id="get_webhook_endpoint", responses=WebhookEndpointSerializer)
    def get(self, request: Request, endpoint_id: str) -> Response:
        """Return a webhook endpoint."""
        return shown(webhook_endpoints.get(endpoint_id=endpoint_id, principal=principal_of(request)))

    @extend_schema(
        operation_id="change_webhook_endpoint",
        parameters=[IF_MATCH],
        request={"application/json": EndpointChangeSerializer},
        responses=WebhookEndpointSerializer,
    )
    @retry_on_conflict
    def patch(self, request: Request, endpoint_id: str) -> HttpResponse:
        """Change an endpoint, or switch it off or on. What is still to be sent goes to its new address."""
        return self.counted(request, lambda: self.change(request, endpoint_id))

    def change(self, request: Request, endpoint_id: str) -> Response:
        principal = principal_of(request)
        webhook_endpoints.get(endpoint_id=endpoint_id, principal=principal)
        context = self.get_serializer_context()
        asked = self.asked = EndpointChangeSerializer(data=request.data, partial=True, context=context)
        asked.is_valid(raise_exception=True)
        if "url" in asked.validated_data:
            webhook_endpoints.look_up(url=asked.validated_data["url"])
        changed = webhook_endpoints.change(
            endpoint_id=endpoint_id, principal=principal, versions=etags_in(request), **asked.validated_data
        )
        return shown(changed)

    @extend_schema(operation_id="delete_webhook_endpoint", parameters=[IF_MATCH], responses={204: None})
    @retry_on_conflict
    def delete(self, request: Request, endpoint_id: str) -> HttpResponse:
        """Delete an endpoint: nothing more is sent to it. Staff still see what was sent."""
        return self.counted(request, lambda: self.remove(request, endpoint_id))

    def remove(self, request: Request, endpoint_id: str) -> Response:
        webhook_endpoints.delete(
            endpoint_id=endpoint_id,
            principal=principal_of(request),
            versions=etags_in(request),
            now=clock.now("orders"),
        )
        return Response(status=204)

    def get_extra_action_url_map(self) -> dict[str, str]:
        """The links on the page of an endpoint."""
        here = [self.kwargs["endpoint_id"]]
        return {
            "Deliveries": reverse("webhook-deliveries", args=here),
            "Ping": reverse("webhook-ping", args=here),
            "Rotate": reverse("webhook-rotate", args=here),
        }


class Rotate(OfEndpoints):
    """The change of an endpoint's secret."""

    scopes: ClassVar = {"POST": "webhooks:write"}
    serializer_class = Serializer

    @extend_schema(
        operation_id="rotate_webhook_secret", parameters=[PARAMETER], request=None,
        responses={200: EndpointWithSecretSerializer},
    )  # fmt: skip
    @retry_on_conflict
    def post(self, request: Request, endpoint_id: str) -> HttpResponse:
        """Make a new secret. For a day, webhooks are signed with the previous one as well."""
        return self.once(request, lambda: self.rotate(request, endpoint_id))

    def rotate(self, request: Request, endpoint_id: str) -> Response:
        principal = principal_of(request)
        endpoint = webhook_endpoints.rotate(endpoint_id=endpoint_id, principal=principal, now=clock.now("orders"))
        return shown(endpoint, EndpointWithSecretSerializer)


class Ping(OfEndpoints):
    """The trial of an endpoint."""

    scopes: ClassVar = {"POST": "webhooks:write"}
    serializer_class = Serializer

    @extend_schema(
        operation_id="ping_webhook_endpoint", parameters=[PARAMETER], request=None, responses={202: DeliverySerializer}
    )
    @retry_on_conflict
    def post(self, request: Request, endpoint_id: str) -> HttpResponse:
        """Send the endpoint a webhook of the type `ping`, signed like any other."""
        return self.once(request, lambda: self.ping(request, endpoint_id))

    def ping(self, request: Request, endpoint_id: str) -> Response:
        delivery = webhooks.ping(endpoint_id=endpoint_id, principal=principal_of(request), now=clock.now("orders"))
        return Response(DeliverySerializer(delivery).data, 202)


class DeliveryFilter(filters.FilterSet):
    """The filters of the list of deliveries."""

    status = filters.ChoiceFilter(choices=WebhookDelivery.Status.choices)

    class Meta:
        model = WebhookDelivery
        fields: ClassVar[list[str]] = []


class Deliveries(OfEndpoints):
    """What was sent to an endpoint."""

    serializer_class = DeliverySerializer
    filter_backends = [Filters]
    filterset_class = DeliveryFilter

    def get_queryset(self) -> QuerySet[WebhookDelivery]:
        if getattr(self, "swagger_fake_view", False):
            return WebhookDelivery.objects.none()
        endpoint = webhook_endpoints.get(endpoint_id=self.kwargs["endpoint_id"], principal=principal_of(self.request))
        return webhooks.deliveries_to(endpoint).prefetch_related(LOG)

    @extend_schema(operation_id="list_webhook_deliveries", responses=DeliverySerializer(many=True))
    def get(self, request: Request, endpoint_id: str) -> Response:
        """List what was sent to an endpoint, the newest first, in pages, with every attempt."""
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        return self.get_paginated_response(ListSerializer(page, child=DeliverySerializer()).data)


class Resend(OfEndpoints):
    """A delivery that is sent again."""

    scopes: ClassVar = {"POST": "webhooks:write"}
    serializer_class = Serializer

    @extend_schema(
        operation_id="resend_webhook", parameters=[PARAMETER], request=None, responses={202: DeliverySerializer}
    )
    @retry_on_conflict
    def post(self, request: Request, endpoint_id: str, delivery_id: str) -> HttpResponse:
        """Send a webhook now, whatever became of it. If that fails, the schedule of retries starts again."""
        return self.once(request, lambda: self.resend(request, endpoint_id, delivery_id))

    def resend(self, request: Request, endpoint_id: str, delivery_id: str) -> Response:
        endpoint = webhook_endpoints.get(endpoint_id=endpoint_id, principal=principal_of(request))
        delivery = webhooks.resend(delivery_id=delivery_id, endpoint_id=str(endpoint.pk), now=clock.now("orders"))
        return Response(DeliverySerializer(delivery).data, 202)


def shown(
    endpoint: WebhookEndpoint,
    serializer: type[WebhookEndpointSerializer] = WebhookEndpointSerializer,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    """An answer with an endpoint, whose version is the ETag. No cache may keep it: it may have a secret."""
    more = {"ETag": f'"{webhook_endpoints.version_of(endpoint)}"', "Cache-Control": "no-store", **(headers or {})}
    return Response(serializer(endpoint).data, status, headers=more)
