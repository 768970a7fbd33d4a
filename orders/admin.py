"""Admin pages of the orders service. The page of an order itself reads all services: see orders_project/backoffice."""

from collections.abc import Mapping
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _
from oauth2_provider.models import get_application_model

from common.admin import (
    Action,
    ActionCall,
    Age,
    ConfirmationForm,
    IdempotencyKeyAdmin,
    ReadOnlyAdmin,
    ShortReasonForm,
    ShownOnce,
    display,
    panels,
    register_outbox_admin,
    scan_filter,
)
from common.principal import Principal

from . import webhook_endpoints, webhooks
from .gauges import LATE_AFTER
from .models import DeadLetter, IdempotencyKey, Incoming, OrderEvent, Outgoing, Status
from .webhook_models import WebhookAttempt, WebhookDelivery, WebhookEndpoint

register_outbox_admin(Outgoing, Incoming, DeadLetter)


@admin.register(OrderEvent)
class OrderEvents(ReadOnlyAdmin):
    """The history of all orders."""

    list_display = ("type", display.order(), "version", display.status(), "actor", "at")
    list_filter = (Age, scan_filter("status", _("status"), Status.choices))
    search_by = ("order_id", "id")
    order = ("-id",)
    sorts: ClassVar = {"at": ("id",)}
    empty = _("No order events yet. Place an order, and its history appears here.")
    fields = (
        display.order(), "version", "type", display.status(), display.json("data", _("data")), "actor", "message_id",
        "correlation_id", "at",
    )  # fmt: skip


@admin.register(IdempotencyKey)
class IdempotencyKeys(IdempotencyKeyAdmin):
    """Stored responses, by Idempotency-Key."""

    list_display = (*IdempotencyKeyAdmin.list_display, display.order())
    search_by = (*IdempotencyKeyAdmin.search_by, "order_id")
    empty = _("No request has been sent with an Idempotency-Key yet.")
    fields = (display.order(), *IdempotencyKeyAdmin.fields)


ALL_CLIENTS = "*"


def _clients() -> list[tuple[str, Any]]:
    names = get_application_model().objects.order_by("client_id").values_list("client_id", flat=True)
    return [("", "–"), (ALL_CLIENTS, _("all clients")), *((name, name) for name in names)]


class EndpointForm(ConfirmationForm):
    """Asks for the URL of an endpoint, and the events to send to it."""

    url = forms.CharField(
        label=_("URL"), max_length=500, widget=forms.TextInput(attrs={"inputmode": "url", "size": 60})
    )
    events = forms.MultipleChoiceField(
        label=_("Events"),
        required=False,
        choices=[(kind, kind) for kind in webhook_endpoints.KINDS],
        widget=forms.CheckboxSelectMultiple,
        help_text=_("Leave empty to send all events."),
    )
    description = forms.CharField(label=_("Description"), required=False, max_length=500)

    def __init__(self, *args: Any, row: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, row=row, **kwargs)
        for name in ("url", "events", "description") if row is not None else ():
            self.fields[name].initial = getattr(row, name)


class NewEndpoint(EndpointForm):
    """Asks for the client as well whose orders the endpoint hears of."""

    client = forms.ChoiceField(
        label=_("Client"), choices=_clients, help_text=_("It receives events about the orders of this client only.")
    )
    field_order = ("client", "url", "events", "description")


def _look_up(call: ActionCall) -> Mapping[str, Any]:
    webhook_endpoints.look_up(url=call.values["url"])
    return {}


def _register(call: ActionCall) -> ShownOnce:
    client = call.values["client"]
    endpoint = webhook_endpoints.register(
        url=call.values["url"], events=call.values["events"], description=call.values["description"],
        principal=client, hears_all=client == ALL_CLIENTS, actor=call.actor, now=call.now,
    )  # fmt: skip
    return ShownOnce(_("Signing secret"), endpoint.new_secret)


def _rotate(call: ActionCall) -> ShownOnce:
    endpoint = webhook_endpoints.rotate(endpoint_id=str(call.row.pk), principal=_staff(call), now=call.now)
    return ShownOnce(_("Signing secret"), endpoint.new_secret)


def _edit(call: ActionCall) -> None:
    fields = {name: call.values[name] for name in ("url", "events", "description")}
    webhook_endpoints.change(endpoint_id=str(call.row.pk), principal=_staff(call), **fields)


def _ping(call: ActionCall) -> str:
    webhooks.ping(endpoint_id=str(call.row.pk), principal=_staff(call), now=call.now)
    return _g("A webhook of the type ping is on its way. Its result appears among the deliveries.")


def _delete(call: ActionCall) -> None:
    webhook_endpoints.delete(endpoint_id=str(call.row.pk), principal=_staff(call), now=call.now)


def _staff(call: ActionCall) -> Principal:
    """Whoever performs an action in the back office sees the endpoints of all clients."""
    return Principal(call.actor, sees_all=True, is_staff=True)


def _disable(call: ActionCall) -> None:
    webhook_endpoints.switch(endpoint_id=str(call.row.pk), on=False, reason=call.values["reason"])


def _enable(call: ActionCall) -> None:
    webhook_endpoints.switch(endpoint_id=str(call.row.pk), on=True)


def _resend(call: ActionCall) -> None:
    webhooks.resend(delivery_id=str(call.row.pk), now=call.now)


def _is_there(endpoint: WebhookEndpoint) -> bool:
    return endpoint.deleted_at is None


@admin.display(description=_("previous secret signs until"))
def previous_until(endpoint: Any) -> Any:
    until = endpoint.secrets.exclude(expires_at=None).values_list("expires_at", flat=True).first()
    return display.time_text(until) if until else display.NOTHING


@admin.display(description=_("events"))
def events(endpoint: Any) -> Any:
    return ", ".join(endpoint.events) or _g("all events")


@admin.register(WebhookEndpoint)
class WebhookEndpoints(ReadOnlyAdmin):
    """The endpoints of customers that receive webhooks about orders."""

    list_display = ("url", "principal", "hears_all", "is_active", "disabled_because", "created_by", "created_at")
    list_filter = ("is_active",)
    search_by = ("id",)
    order = ("-id",)
    empty = _("No endpoints yet. Register an endpoint to send webhooks to it.")
    fields = (
        "url", "principal", "hears_all", events, "description", "is_active", "disabled_because", previous_until,
        "created_by", "created_at", "deleted_at",
    )  # fmt: skip
    page_actions = (
        Action(
            name="register",
            label=_("Register an endpoint"),
            explanation=_("The endpoint will receive these events from now on, signed with its own secret."),
            permission="edit_endpoint",
            form=NewEndpoint,
            first=_look_up,
            perform=_register,
            of_list=True,
        ),
        Action(
            name="edit",
            label=_("Edit the endpoint"),
            explanation=_("What is still to be sent goes to the new URL."),
            permission="edit_endpoint",
            form=EndpointForm,
            first=_look_up,
            perform=_edit,
            is_possible=_is_there,
        ),
        Action(
            name="ping",
            label=_("Send a ping"),
            explanation=_("Sends a webhook of the type ping, signed like any other, to see whether it arrives."),
            permission="edit_endpoint",
            perform=_ping,
            is_possible=lambda endpoint: endpoint.is_active,
        ),
        Action(
            name="rotate",
            label=_("Rotate the secret"),
            explanation=_("For one day, webhooks are signed with both secrets, so that the receiver can switch."),
            permission="edit_endpoint",
            perform=_rotate,
            is_possible=_is_there,
        ),
        Action(
            name="off",
            label=_("Disable the endpoint"),
            keep=_("Keep it enabled"),
            explanation=_("No webhooks will be sent to this endpoint until it is enabled again."),
            permission="edit_endpoint",
            form=ShortReasonForm,
            perform=_disable,
            is_possible=lambda endpoint: endpoint.is_active,
            destructive=True,
        ),
        Action(
            name="on",
            label=_("Enable the endpoint"),
            explanation=_("The endpoint will receive events from now on."),
            permission="edit_endpoint",
            perform=_enable,
            is_possible=lambda endpoint: _is_there(endpoint) and not endpoint.is_active,
        ),
        Action(
            name="delete",
            label=_("Delete the endpoint"),
            keep=_("Keep the endpoint"),
            explanation=_(
                "Nothing more will be sent to this endpoint, and its secrets are erased. Its deliveries stay."
            ),
            permission="edit_endpoint",
            perform=_delete,
            is_possible=_is_there,
            destructive=True,
        ),
    )

    def panels_for(self, request: HttpRequest, row: Any) -> list[panels.Panel]:
        return [
            panels.newest(
                WebhookDelivery.objects.filter(endpoint=row).order_by("-id"),
                (
                    _("at"),
                    lambda one: display.page_link("orders", "webhookdelivery", one.pk, display.moment(one.created_at)),
                ),
                (_("type"), lambda one: one.type),
                (_("order"), lambda one: display.order_link(one.order_id)),
                (_("status"), lambda one: one.get_status_display()),
                (_("attempts"), lambda one: one.attempts),
                title=_("Deliveries"),
                more=display.list_url("orders", "webhookdelivery", f"q={row.pk}"),
                empty=_("No webhooks have been sent to this endpoint yet."),
            )
        ]


class Late(admin.SimpleListFilter):
    """Webhooks that should have been sent, or tried again, before now."""

    title = _("sending")
    parameter_name = "sending"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("late", _("late"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        late = timezone.now() - LATE_AFTER
        return queryset.filter(status="pending", next_at__lt=late) if self.value() else queryset


@admin.register(WebhookDelivery)
class WebhookDeliveries(ReadOnlyAdmin):
    """The webhooks sent to customers."""

    list_display = ("type", display.order(), "endpoint", display.status(), "attempts", "next_at", "created_at")
    list_filter = ("status", Late, Age)
    list_select_related = ("endpoint",)
    search_by = ("id", "event_id", "order_id", "endpoint_id")
    order = ("-id",)
    sorts: ClassVar = {"created_at": ("id",)}
    empty = _("No webhooks have been sent yet. Register an endpoint to send webhooks to it.")
    fields = (
        "endpoint", "type", display.order(), display.status(), "attempts", "tries", "next_at", "event_id",
        display.json("body", _("body")), "created_at",
    )  # fmt: skip
    bulk_actions = ("resend",)
    page_actions = (
        Action(
            name="resend",
            label=_("Send again"),
            explanation=_("Sends the webhook now. If that fails, the schedule of retries starts again."),
            permission="resend_webhook",
            perform=_resend,
            is_possible=lambda delivery: delivery.endpoint.is_active,
        ),
    )

    def panels_for(self, request: HttpRequest, row: Any) -> list[panels.Panel]:
        return [
            panels.newest(
                WebhookAttempt.objects.filter(delivery=row).order_by("-number"),
                (_("number"), lambda one: one.number),
                (_("at"), lambda one: display.moment(one.at)),
                (_("seconds"), lambda one: f"{one.seconds:.3f}"),
                (_("result"), lambda one: one.status_code or one.error),
                (
                    _("response"),
                    lambda one: display.preformatted(one.response[:2000]) if one.response else display.NOTHING,
                ),
                title=_("Attempts"),
                empty=_("No attempts yet."),
            )
        ]
