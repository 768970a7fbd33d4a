"""The endpoint for the webhooks of payment gateways."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from common.errors import Refusal
from outbox import clock

from . import gateways, metrics, receipts
from .gateways.base import BadEvent


class MalformedWebhook(Refusal):
    """The signature is right, but the body cannot be read."""

    code = BadEvent.code


class WebhookTaken(serializers.Serializer[None]):
    """The webhook is stored and will be handled."""

    receipt_id = serializers.UUIDField()


class Webhooks(APIView):
    """
    A gateway's webhook is verified, stored as it came, answered with 202, and then handled once.

    A webhook without a valid and recent signature of the gateway is refused and not stored.
    """

    authentication_classes = ()
    public_methods = ("POST",)
    serializer_class = WebhookTaken

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        """Ignore the Accept header: the webhook counts, whatever answer the gateway accepts."""
        return super().perform_content_negotiation(request, force=True)

    @extend_schema(operation_id="take_webhook", request={"application/json": dict}, responses={202: WebhookTaken})
    def post(self, request: Request, gateway: str = "fake") -> Response:
        """Receive a webhook."""
        http = request._request
        if gateway not in gateways.GATEWAYS:
            raise NotFound("There is no gateway of this name.")
        try:
            receipt = receipts.receive(gateway=gateway, headers=http.headers, body=http.body, now=clock.now("payments"))
        except (BadEvent, Refusal) as refused:
            metrics.WEBHOOKS.labels(gateway, "refused").inc()
            if isinstance(refused, BadEvent):
                raise MalformedWebhook(str(refused)) from refused
            raise
        metrics.WEBHOOKS.labels(gateway, "taken").inc()
        return Response({"receipt_id": str(receipt.pk)}, status=202)
