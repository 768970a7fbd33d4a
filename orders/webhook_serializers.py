"""How webhook endpoints and deliveries are written in requests and answers."""

import json
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers
from rest_framework.utils.html import is_html_input

from common.field_rules import NotEmpty
from common.fields import Boolean, StrictSerializer, Text

from . import webhook_endpoints
from .models import WebhookAttempt, WebhookDelivery, WebhookEndpoint
from .serializers import NullableText

MAX_EVENTS = 50

# What became of an attempt that got no answer, by the code that its error begins with. Whether there is a host of this
# name in our own network is nobody's business, so the first two have one text.
IN_WORDS = {
    "unreachable": _("The endpoint could not be reached, or has no public address."),
    "address_refused": _("The endpoint could not be reached, or has no public address."),
    "unreadable": _("The answer of the endpoint could not be read."),
}


class EventsSerializer(serializers.ListField):
    """The types of events to send. An HTML form gives them in one text, separated by commas or spaces."""

    def get_value(self, dictionary: Any) -> Any:
        if not is_html_input(dictionary):
            return super().get_value(dictionary)
        if self.field_name not in dictionary:
            return serializers.empty
        return str(dictionary.get(self.field_name)).replace(",", " ").split()


class EndpointFields(StrictSerializer):
    """What a client says about its endpoint."""

    url = Text(
        max_length=500, trim_whitespace=False, help_text=_("Where webhooks are sent: https, at a public address.")
    )
    events = EventsSerializer(
        child=Text(max_length=100),
        required=False,
        max_length=MAX_EVENTS,
        style={"base_template": "input.html", "input_type": "text"},
        help_text=_("The types of events, as GET /event-types lists them. Empty: all of them."),
    )
    description = Text(required=False, allow_blank=True, max_length=500, help_text=_("For people."))

    def to_internal_value(self, data: Any) -> Any:
        """
        What is of the right type is looked at as well, so that all mistakes are told at once.

        The host of the URL is not looked up: that takes a while, see `webhook_endpoints.look_up`.
        """
        wrong: dict[str, Any] = {}
        try:
            known = super().to_internal_value(data)
        except serializers.ValidationError as error:
            if not (isinstance(error.detail, dict) and isinstance(data, Mapping)):
                raise
            wrong = dict(error.detail)
            known = {name: data[name] for name in ("url", "events") if name in data and name not in wrong}
        events = known.get("events")
        mistakes = webhook_endpoints.mistakes(url=known.get("url"), events=events if isinstance(events, list) else ())
        if wrong or mistakes:
            raise serializers.ValidationError(mistakes | wrong)
        return known


class NewEndpointSerializer(EndpointFields):
    """A new webhook endpoint."""


class EndpointChangeSerializer(EndpointFields):
    """What to change of a webhook endpoint."""

    is_active = Boolean(required=False, help_text=_("Whether webhooks are sent to it."))

    rules = (NotEmpty(_("Say what to change.")),)


class WebhookEndpointSerializer(serializers.Serializer[WebhookEndpoint]):
    """A webhook endpoint."""

    endpoint_id = serializers.UUIDField(source="id", read_only=True)
    url = serializers.CharField(read_only=True)
    events = serializers.ListField(child=serializers.CharField(), read_only=True, help_text=_("empty: all of them"))
    description = serializers.CharField(read_only=True)
    is_active = serializers.BooleanField(read_only=True)
    disabled_because = NullableText()
    created_at = serializers.DateTimeField(read_only=True)


class EndpointWithSecretSerializer(WebhookEndpointSerializer):
    """A webhook endpoint with the secret that signs what is sent to it. This answer alone contains the secret."""

    secret = serializers.CharField(
        source="new_secret",
        read_only=True,
        allow_null=True,
        help_text=_("null in an answer that is repeated by its Idempotency-Key: it is not stored there"),
    )


class DeliveryAttemptSerializer(serializers.Serializer[WebhookAttempt]):
    """One attempt to deliver a webhook."""

    number = serializers.IntegerField(read_only=True)
    at = serializers.DateTimeField(read_only=True)
    seconds = serializers.FloatField(read_only=True, help_text=_("how long it took"))
    status_code = serializers.IntegerField(read_only=True, allow_null=True)
    error = serializers.SerializerMethodField(help_text=_("why it failed; null if it did not"))

    def get_error(self, attempt: WebhookAttempt) -> str | None:
        if attempt.status_code is None:
            return str(IN_WORDS.get(attempt.error.partition(":")[0], IN_WORDS["unreadable"]))
        if 200 <= attempt.status_code < 300:
            return None
        return _g("The endpoint answered with %(status)d.") % {"status": attempt.status_code}


class DeliverySerializer(serializers.Serializer[WebhookDelivery]):
    """One event that was sent to an endpoint, or will be."""

    delivery_id = serializers.UUIDField(source="id", read_only=True)
    event_id = serializers.UUIDField(read_only=True, help_text=_("the header webhook-id, the same in every attempt"))
    type = serializers.CharField(read_only=True)
    order_id = serializers.SerializerMethodField()
    status = serializers.ChoiceField(WebhookDelivery.Status.choices, read_only=True)
    next_attempt_at = serializers.DateTimeField(source="next_at", read_only=True, allow_null=True)
    attempts = DeliveryAttemptSerializer(source="log", many=True, read_only=True)
    created_at = serializers.DateTimeField(read_only=True)

    def get_order_id(self, delivery: WebhookDelivery) -> str | None:
        """As its client knows the order."""
        told: str | None = json.loads(delivery.body)["data"].get("order_id")
        return told
