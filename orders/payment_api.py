"""The HTTP API of what becomes of an order's money: its payment, the capture of what is reserved, and refunds."""

from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from drf_spectacular.utils import extend_schema
from rest_framework.generics import GenericAPIView
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import ListSerializer

from common.authority import Authority
from common.html_forms import WithForm
from common.idempotency import HEADER, PARAMETER, answer_once
from common.pagination import KeysetPagination
from common.parameters import StrictView
from common.principal import principal_of
from outbox import clock
from outbox.conflicts import retry_on_conflict

from . import payment, refunds, services
from .api import IF_MATCH, response, versions_in
from .models import IdempotencyKey, Order, Refund
from .payment_serializers import CaptureSerializer, NewRefundSerializer, PaymentSerializer, RefundSerializer
from .serializers import OrderSerializer


class OldestFirst(KeysetPagination):
    """Refunds, the oldest first."""

    ordering = ("refund_id",)


class PaymentOfOrder(StrictView, GenericAPIView[Order]):
    """The payment of an order."""

    scope = "orders"
    serializer_class = PaymentSerializer

    @extend_schema(operation_id="get_payment")
    def get(self, request: Request, order_id: str) -> Response:
        """Return the payment of an order, with what the payer needs to pay it."""
        principal = principal_of(request)
        order = services.get_order(order_id=order_id, principal=principal)
        shown = PaymentSerializer(payment.payment_of(order, principal=principal)).data
        return Response(shown, headers={"Cache-Control": "no-store"})


class OnOrder(WithForm):
    """The base of the endpoints that move the money of one order."""

    order: Order | None = None  # that the request is about, once it is found

    def find(self) -> Order:
        """
        Return the order of the path.

        :raises services.NoSuchOrder: if there is none that the client may see
        :raises services.AmbiguousOrder: if several clients have one of this id, and it is to be changed
        """
        self.order = services.get_order(
            order_id=self.kwargs["order_id"],
            principal=principal_of(self.request),
            to_change=self.request.method not in SAFE_METHODS,
        )
        return self.order

    def get_serializer_context(self) -> dict[str, Any]:
        """Amounts are in the currency of the order."""
        return {**super().get_serializer_context(), **({"currency": self.order.currency} if self.order else {})}

    def answer(self, request: Request, perform: Any) -> HttpResponse:
        """Answer once for each Idempotency-Key."""
        return answer_once(
            self,
            request,
            perform,
            answers=IdempotencyKey,
            principal=principal_of(request).name,
            extra_fields=lambda: {"order_id": self.order.order_id if self.order else ""},
        )


class CaptureOfOrder(OnOrder):
    """The capture of the money that is reserved for an order."""

    scopes: ClassVar = {"POST": "payments:write"}
    serializer_class = CaptureSerializer

    @extend_schema(
        operation_id="capture_order",
        parameters=[IF_MATCH, PARAMETER],
        request={"application/json": CaptureSerializer},
        responses={202: OrderSerializer},
    )
    @retry_on_conflict
    def post(self, request: Request, order_id: str) -> HttpResponse:
        """Take the money that is reserved for an order, or less of it. The rest is released."""
        return self.answer(request, lambda: self.capture(request))

    def capture(self, request: Request) -> Response:
        order = self.find()
        asked = self.asked = self.get_serializer(data=request.data)
        asked.is_valid(raise_exception=True)
        captured = services.capture_order(
            order_id=order.order_id,
            amount=asked.validated_data.get("amount"),
            reason=asked.validated_data.get("reason") or "",
            by=Authority.of(principal_of(request)),
            now=clock.now("orders"),
            versions=versions_in(request),
        )
        return response(captured, 202)


class Refunds(OnOrder):
    """The refunds of an order."""

    scopes: ClassVar = {"GET": "orders:read", "POST": "refunds:write"}
    serializer_class = NewRefundSerializer
    pagination_class = OldestFirst
    queryset = Refund.objects.none()

    @extend_schema(operation_id="list_refunds", responses=RefundSerializer(many=True))
    def get(self, request: Request, order_id: str) -> Response:
        """List the refunds of an order, the oldest first, in pages; those made by hand at the gateway as well."""
        page = self.paginate_queryset(self.find().refunds.select_related("order"))
        return self.get_paginated_response(ListSerializer(page, child=RefundSerializer()).data)

    @extend_schema(
        operation_id="refund_order",
        parameters=[PARAMETER],
        request={"application/json": NewRefundSerializer},
        responses={202: RefundSerializer},
    )
    @retry_on_conflict
    def post(self, request: Request, order_id: str) -> HttpResponse:
        """Refund money of a paid order: an amount, pieces of its lines, or all that is left. The order stays."""
        return self.answer(request, lambda: self.refund(request))

    def refund(self, request: Request) -> Response:
        order = self.find()
        asked = NewRefundSerializer(data=request.data, context=self.get_serializer_context())
        self.asked = asked
        asked.is_valid(raise_exception=True)
        refund = refunds.ask(
            order_id=order.order_id,
            wanted=asked.wanted(),
            by=Authority.of(principal_of(request)),
            now=clock.now("orders"),
            key=request.headers.get(HEADER),
        )
        location = reverse("order-refund", args=[order.shown_id, refund.refund_id])
        return Response(RefundSerializer(refund).data, 202, headers={"Location": location})


class OneRefund(StrictView, GenericAPIView[Refund]):
    """One refund of an order."""

    scope = "orders"
    serializer_class = RefundSerializer

    @extend_schema(operation_id="get_refund")
    def get(self, request: Request, order_id: str, refund_id: UUID) -> Response:
        """Return a refund of an order."""
        order = services.get_order(order_id=order_id, principal=principal_of(request))
        return Response(RefundSerializer(refunds.refund_of(order, str(refund_id))).data)
