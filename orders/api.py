"""The HTTP API of orders."""

import re
from collections.abc import Mapping

from django.db.models import QuerySet
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils.cache import get_conditional_response
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.exceptions import ValidationError
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import ListSerializer

from common.conditional import etags_in, if_match
from common.html_forms import WithForm
from common.idempotency import HEADER, PARAMETER, answer_once
from common.pagination import Filters
from common.parameters import StrictView
from common.principal import Principal, principal_of
from common.reads import reads_may_lag
from outbox import clock
from outbox.conflicts import retry_on_conflict

from . import archive, payment, services, shedding
from .filters import NewestFirst, OldestFirst, OrderFilter
from .limits import count_order
from .models import IdempotencyKey, Order, OrderEvent, Status
from .payment_serializers import PaymentSerializer
from .serializers import SERIALIZER, CancellationSerializer, EventSerializer, NewOrderSerializer, OrderSerializer

VERSION = re.compile(r"[1-9][0-9]{0,9}")
IF_MATCH = if_match("The ETag of the version to cancel; another version is left alone.")


PAYMENT = "payment"  # what else can be shown with one order


def expand(*names: str) -> OpenApiParameter:
    """The parameter that names what to show with an order."""
    return OpenApiParameter(
        "expand",
        {"type": "array", "items": {"type": "string", "enum": list(names)}},
        explode=False,
        description="What to show with an order, which would take a request of its own otherwise.",
    )


class Orders(WithForm):
    """All orders, the newest first."""

    scope = "orders"
    serializer_class = NewOrderSerializer
    pagination_class = NewestFirst
    filter_backends = [Filters]
    filterset_class = OrderFilter
    limits: Mapping[str, str] = {}
    stored_id = ""  # of the order that was placed
    is_admitted = False

    def get_queryset(self) -> QuerySet[Order]:
        if getattr(self, "swagger_fake_view", False):
            return Order.objects.none()
        return services.orders_of(principal_of(self.request))

    @extend_schema(
        operation_id="list_orders", parameters=[expand(*services.EXPANDABLE)], responses=OrderSerializer(many=True)
    )
    @reads_may_lag("orders")
    def get(self, request: Request) -> Response:
        """List orders page by page, the newest first unless `sort` says otherwise."""
        more = expanded(request)
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset())) or []
        services.expand(page, more)
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
        if shedding.is_late() and _is_without_name(request):
            shedding.admit()  # to refuse what cannot have been placed before costs a fraction of looking at it
            self.is_admitted = True
        principal = principal_of(request).name
        answer = answer_once(
            self,
            request,
            lambda: self.place(request, principal=principal),
            answers=IdempotencyKey,
            principal=principal,
            extra_fields=lambda: {"order_id": self.stored_id},
        )
        for name, value in self.limits.items():  # of this request, not of the one whose answer is replayed
            answer[name] = f"{answer[name]}, {value}" if name in answer else value
        return answer

    def place(self, request: Request, *, principal: str) -> Response:
        asked = self.asked = NewOrderSerializer(data=request.data, context=self.get_serializer_context())
        asked.is_valid(raise_exception=True)
        new, key, now = asked.new_order(principal=principal), request.headers.get(HEADER), clock.now("orders")
        if not self.is_admitted:
            services.admit(new=new, now=now, key=key)
        self.limits = count_order(email=new.user_email, principal=principal)
        order, is_new = services.place_order(new=new, now=now, actor=principal, key=key)
        self.stored_id = order.order_id
        location = {"Location": reverse("order", args=[order.shown_id])}
        return response(order, status.HTTP_201_CREATED if is_new else status.HTTP_200_OK, headers=location)


def _is_without_name(request: Request) -> bool:
    """Whether a request for an order has neither a key nor an order id."""
    has_id = isinstance(request.data, Mapping) and "order_id" in request.data
    return HEADER not in request.headers and not has_id


class OneOrder(StrictView, GenericAPIView[Order]):
    """One order."""

    scope = "orders"
    serializer_class = OrderSerializer

    @extend_schema(operation_id="get_order", parameters=[expand(*services.EXPANDABLE, PAYMENT)])
    def get(self, request: Request, order_id: str) -> HttpResponseBase:
        """Return an order. Its version is the ETag."""
        principal, more = principal_of(request), expanded(request, PAYMENT)
        order = services.get_order(order_id=order_id, principal=principal)
        services.expand([order], more)
        answer = response(order)
        if PAYMENT in more:  # which changes without the order, and is for the eyes of the client alone
            answer.data["payment"] = PaymentSerializer(payment.payment_of(order, principal=principal)).data
            answer["Cache-Control"] = "no-store"
            return answer
        etag = answer["ETag"]
        return get_conditional_response(request._request, etag=etag, response=answer) or answer

    def get_extra_action_url_map(self) -> dict[str, str]:
        """The links on the page of an order."""
        order_id = self.kwargs["order_id"]
        return {
            "History": reverse("order-events", args=[order_id]),
            "Cancel": reverse("order-cancel", args=[order_id]),
            "Payment": reverse("order-payment", args=[order_id]),
            "Capture": reverse("order-capture", args=[order_id]),
            "Refunds": reverse("order-refunds", args=[order_id]),
        }


class Events(StrictView, GenericAPIView[OrderEvent]):
    """The history of an order."""

    scope = "orders"
    serializer_class = EventSerializer
    pagination_class = OldestFirst
    queryset = OrderEvent.objects.none()

    @extend_schema(operation_id="list_order_events", responses=EventSerializer(many=True))
    def get(self, request: Request, order_id: str) -> Response:
        """List the events of an order, the oldest first."""
        order = services.get_order(order_id=order_id, principal=principal_of(request))
        page = self.paginate_queryset(archive.history_of(order))
        return self.get_paginated_response(ListSerializer(page, child=EventSerializer()).data)


class Cancel(WithForm):
    """The cancellation of an order."""

    scope = "orders"
    serializer_class = CancellationSerializer
    stored_id = ""  # of the order that was canceled

    @extend_schema(
        operation_id="cancel_order",
        parameters=[IF_MATCH, PARAMETER],
        request={"application/json": CancellationSerializer},
        responses={200: OrderSerializer, 202: OrderSerializer},
    )
    @retry_on_conflict
    def post(self, request: Request, order_id: str) -> HttpResponse:
        """Cancel an order: 202 while its stock and money are being given back, 200 once they are."""
        principal = principal_of(request)
        return answer_once(
            self,
            request,
            lambda: self.cancel(request, order_id, principal),
            answers=IdempotencyKey,
            principal=principal.name,
            extra_fields=lambda: {"order_id": self.stored_id},
        )

    def cancel(self, request: Request, order_id: str, principal: Principal) -> Response:
        order = services.cancel_order(
            order_id=order_id,
            now=clock.now("orders"),
            principal=principal,
            reason=self.reason(request) if principal.is_staff or "json" in request.content_type else "",
            versions=versions_in(request),
        )
        self.stored_id = order.order_id
        is_canceled = order.status == Status.CANCELED
        return response(order, status.HTTP_200_OK if is_canceled else status.HTTP_202_ACCEPTED)

    def reason(self, request: Request) -> str:
        """The reason in the body, which may be empty. A client's body that is not JSON is not looked at."""
        asked = self.asked = CancellationSerializer(data=request.data or {}, context=self.get_serializer_context())
        asked.is_valid(raise_exception=True)
        return asked.validated_data.get("reason") or ""


def expanded(request: Request, *more: str) -> set[str]:
    """
    What to show with orders: the names in `expand`, which are separated by commas.

    :param more: names that can be expanded here and not in lists

    :raises ValidationError: if one is unknown
    """
    names = {name for text in request.query_params.getlist("expand") for name in text.split(",") if name}
    known = (*services.EXPANDABLE, *more)
    if not names <= set(known):
        raise ValidationError({"expand": [_("Expand any of: %s.") % ", ".join(known)]})
    return names


def response(order: Order, status: int = status.HTTP_200_OK, headers: Mapping[str, str] | None = None) -> Response:
    """An answer with an order, whose version is the ETag."""
    link = f'<{reverse("order-payment", args=[order.shown_id])}>; rel="payment"'
    shown = {"ETag": f'"{order.version}"', "Link": link, **(headers or {})}
    return Response(SERIALIZER.to_representation(order), status, headers=shown)


def versions_in(request: Request) -> set[int] | None:
    """The versions of an order that a request names with If-Match; none if it accepts any version."""
    etags = etags_in(request)
    return None if etags is None else {int(etag) for etag in etags if VERSION.fullmatch(etag)}
