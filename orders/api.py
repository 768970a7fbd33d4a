"""The HTTP door of orders."""

from collections.abc import Mapping

from django.db.models import QuerySet
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import get_conditional_response
from django.utils.http import parse_etags
from django_filters.rest_framework import DjangoFilterBackend
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import ListSerializer

from common import principal as caller
from common.html_forms import WithForm
from common.idempotency import HEADER, PARAMETER, answer_once
from common.principal import Caller
from outbox.conflicts import retry_on_conflict

from . import services
from .filters import NewestFirst, OldestFirst, OrderFilter
from .limits import address_of, count_order
from .models import IdempotencyKey, Order, OrderEvent, Status
from .saga import VersionConflict
from .serializers import EventSerializer, NewOrderSerializer, OrderSerializer

SHOWN = OrderSerializer()  # made once: a serializer copies all of its fields
IF_MATCH = OpenApiParameter("If-Match", str, OpenApiParameter.HEADER, description="Only at this version: its ETag.")


class Orders(WithForm):
    """All orders. The newest come first."""

    scope = "orders"
    serializer_class = NewOrderSerializer
    pagination_class = NewestFirst
    filter_backends = [DjangoFilterBackend]
    filterset_class = OrderFilter
    limits: Mapping[str, str] = {}

    def get_queryset(self) -> QuerySet[Order]:
        if getattr(self, "swagger_fake_view", False):
            return Order.objects.none()
        return services.orders_of(caller.of(self.request))

    @extend_schema(operation_id="list_orders", responses=OrderSerializer(many=True))
    def get(self, request: Request) -> Response:
        """Orders, the newest first, by page."""
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        return self.get_paginated_response(ListSerializer(page, child=OrderSerializer()).data)

    @extend_schema(
        operation_id="place_order",
        parameters=[PARAMETER],
        request={"application/json": NewOrderSerializer},
        responses={200: OrderSerializer, 201: OrderSerializer},
    )
    @retry_on_conflict
    def post(self, request: Request) -> HttpResponse:
        """Place an order."""
        principal = caller.of(request).principal
        answer = answer_once(
            self,
            request,
            lambda: self.place(request, principal=principal),
            answers=IdempotencyKey,
            principal=principal,
            note=lambda answer: {"order_id": answer.get("order_id", "")},
        )
        for name, value in self.limits.items():  # of this request, not of the one whose answer is replayed
            answer[name] = value
        return answer

    def place(self, request: Request, *, principal: str) -> Response:
        asked = self.asked = NewOrderSerializer(data=request.data, context=self.get_serializer_context())
        asked.is_valid(raise_exception=True)
        new = asked.new_order(principal=principal)
        forwarded = request.headers.get("X-Forwarded-For")
        address = address_of(request.META.get("REMOTE_ADDR", ""), [forwarded] if forwarded else [])
        self.limits = count_order(email=new.user_email, principal=principal, address=address)
        key = request.headers.get(HEADER)
        order, made = services.place_order(new=new, now=timezone.now(), actor=principal, key=key)
        there = {"Location": reverse("order", args=[order.order_id])}
        return shown(order, status.HTTP_201_CREATED if made else status.HTTP_200_OK, headers=there)


class OneOrder(GenericAPIView[Order]):
    """One order."""

    scope = "orders"
    serializer_class = OrderSerializer

    @extend_schema(operation_id="get_order")
    def get(self, request: Request, order_id: str) -> HttpResponseBase:
        """An order as it stands; its version is the ETag."""
        answer = shown(services.get_order(order_id=order_id, caller=caller.of(request)))
        etag = answer["ETag"]
        return get_conditional_response(request._request, etag=etag, response=answer) or answer

    def get_extra_action_url_map(self) -> dict[str, str]:
        """Where the page of an order leads on to."""
        order_id = self.kwargs["order_id"]
        return {
            "History": reverse("order-events", args=[order_id]),
            "Cancel": reverse("order-cancel", args=[order_id]),
        }


class Events(GenericAPIView[OrderEvent]):
    """The history of an order."""

    scope = "orders"
    serializer_class = EventSerializer
    pagination_class = OldestFirst
    queryset = OrderEvent.objects.none()

    @extend_schema(operation_id="list_order_events", responses=EventSerializer(many=True))
    def get(self, request: Request, order_id: str) -> Response:
        """What has happened to an order, from its beginning."""
        order = services.get_order(order_id=order_id, caller=caller.of(request))
        page = self.paginate_queryset(services.history_of(order))
        return self.get_paginated_response(ListSerializer(page, child=EventSerializer()).data)


class Cancel(WithForm):
    """The way back of an order."""

    scope = "orders"
    serializer_class = OrderSerializer

    @extend_schema(
        operation_id="cancel_order",
        parameters=[IF_MATCH, PARAMETER],
        request=None,
        responses={200: OrderSerializer, 202: OrderSerializer},
    )
    @retry_on_conflict
    def post(self, request: Request, order_id: str) -> HttpResponse:
        """Cancel an order: 202 while stock and money are on their way back, 200 when they are."""
        me = caller.of(request)
        return answer_once(
            self,
            request,
            lambda: self.cancel(request, order_id, me),
            answers=IdempotencyKey,
            principal=me.principal,
            note=lambda answer: {"order_id": answer.get("order_id", "")},
        )

    def cancel(self, request: Request, order_id: str, me: Caller) -> Response:
        order = services.get_order(order_id=order_id, caller=me)
        services.cancel_order(
            order_id=order_id, now=timezone.now(), actor=me.principal, if_version=expected_version(request, order)
        )
        order = services.get_order(order_id=order_id, caller=me)
        there = order.status == Status.CANCELED
        return shown(order, status.HTTP_200_OK if there else status.HTTP_202_ACCEPTED)


def shown(order: Order, status: int = status.HTTP_200_OK, headers: Mapping[str, str] | None = None) -> Response:
    """The answer that shows an order."""
    return Response(SHOWN.to_representation(order), status, headers={"ETag": etag_of(order), **(headers or {})})


def etag_of(order: Order) -> str:
    return f'"{order.version}"'


def expected_version(request: Request, order: Order) -> int | None:
    """
    The version at which the caller believes this order to be, if it says so by If-Match.

    :raises VersionConflict: if it isn't
    """
    header = request.headers.get("If-Match")
    if header is None or header.strip() == "*":
        return None
    if etag_of(order) not in parse_etags(header):
        raise VersionConflict(order)
    return order.version
