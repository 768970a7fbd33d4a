"""The door through which gateways tell us what became of payments."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from common.errors import Refusal

from . import gateways, metrics, receipts
from .gateways.base import BadEvent


class MalformedWebhook(Refusal):
    """The signature is right and the body makes no sense."""

    code = BadEvent.code


class WebhookTaken(serializers.Serializer[None]):
    """The webhook is stored, and will be acted on."""

    receipt_id = serializers.UUIDField()


class Webhooks(APIView):
    """
    A gateway's webhook: verified, stored as it came, answered with 202, then acted on once.

    What isn't shown to come from the gateway, now, is refused, and nothing of it is stored.
    """

    authentication_classes = ()
    public_methods = ("POST",)
    serializer_class = WebhookTaken

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        """Whatever the gateway says that it accepts: what counts is that it is heard."""
        return super().perform_content_negotiation(request, force=True)

    @extend_schema(operation_id="take_webhook", request={"application/json": dict}, responses={202: WebhookTaken})
    def post(self, request: Request, gateway: str = "fake") -> Response:
        """Take in what a gateway tells."""
        http = request._request
        if gateway not in gateways.GATEWAYS:
            raise NotFound("There is no gateway of this name.")
        try:
            receipt = receipts.take_in(gateway=gateway, headers=http.headers, body=http.body, now=timezone.now())
        except (BadEvent, Refusal) as refused:
            metrics.WEBHOOKS.labels(gateway, "refused").inc()
            if isinstance(refused, BadEvent):
                raise MalformedWebhook(str(refused)) from refused
            raise
        metrics.WEBHOOKS.labels(gateway, "taken").inc()
        return Response({"receipt_id": str(receipt.pk)}, status=202)
