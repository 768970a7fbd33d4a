"""Orders in the back office. The page of an order shows every service, so it is at home under the roof."""

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common.admin import (
    Action,
    ActionCall,
    Age,
    ConfirmationForm,
    IdempotencyKeyAdmin,
    ReadOnlyAdmin,
    ShortReasonForm,
    panels,
    register_outbox_admin,
    scan_filter,
)
from common.admin import display as show

from . import webhooks
from .models import DeadLetter, IdempotencyKey, Incoming, OrderEvent, Outgoing, Status
from .webhook_models import WebhookAttempt, WebhookDelivery, WebhookEndpoint

register_outbox_admin(Outgoing, Incoming, DeadLetter)


@admin.register(OrderEvent)
class OrderEvents(ReadOnlyAdmin):
    """The history of all orders."""

    list_display = ("type", show.order(), "version", show.status(), "actor", "at")
    list_filter = (Age, scan_filter("status", _("status"), Status.choices))
    search_by = ("order_id", "id")
    order = ("-id",)
    empty = _("No order has moved yet. Place one, and its history is written here.")
    fields = (
        show.order(), "version", "type", show.status(), show.json("data", _("data")), "actor", "message_id",
        "correlation_id", "at",
    )  # fmt: skip


@admin.register(IdempotencyKey)
class IdempotencyKeys(IdempotencyKeyAdmin):
    """What was answered under an Idempotency-Key."""

    list_display = (*IdempotencyKeyAdmin.list_display, show.order())
    search_by = (*IdempotencyKeyAdmin.search_by, "order_id")
    empty = _("No request has carried an Idempotency-Key yet.")
    fields = (show.order(), *IdempotencyKeyAdmin.fields)


class NewEndpoint(ConfirmationForm):
    """Where to send, and what of."""

    url = forms.CharField(
        label=_("URL"), max_length=500, widget=forms.TextInput(attrs={"inputmode": "url", "size": 60})
    )
    events = forms.MultipleChoiceField(
        label=_("Events"),
        required=False,
        choices=[(kind, kind) for kind in webhooks.KINDS],
        help_text=_("None means all of them."),
    )


def _register(call: ActionCall) -> str:
    endpoint = webhooks.register(url=call.values["url"], events=call.values["events"], actor=call.actor, now=call.now)
    return _secret_of(endpoint)


def _rotate(call: ActionCall) -> str:
    return _secret_of(webhooks.rotate(endpoint_id=str(call.row.pk), now=call.now))


def _secret_of(endpoint: WebhookEndpoint) -> str:
    return _g("It signs with %(secret)s. Hand it over now: it is not shown again.") % {"secret": endpoint.secret}


def _switch_off(call: ActionCall) -> None:
    webhooks.switch(endpoint_id=str(call.row.pk), on=False, reason=call.values["reason"])


def _switch_on(call: ActionCall) -> None:
    webhooks.switch(endpoint_id=str(call.row.pk), on=True)


def _resend(call: ActionCall) -> None:
    webhooks.resend(delivery_id=str(call.row.pk), now=call.now)


@admin.register(WebhookEndpoint)
class WebhookEndpoints(ReadOnlyAdmin):
    """Who is told of orders."""

    list_display = ("url", "is_active", "disabled_because", "created_by", "created_at")
    list_filter = ("is_active",)
    search_by = ("id",)
    order = ("-id",)
    empty = _("Nobody is told of orders yet. Register an address.")
    fields = ("url", "events", "is_active", "disabled_because", "previous_until", "created_by", "created_at")
    page_actions = (
        Action(
            name="register",
            label=_("Register an address"),
            explanation=_("It is told of these events from now on, each signed with a secret of its own."),
            permission="orders_project.edit_endpoint",
            form=NewEndpoint,
            perform=_register,
            of_list=True,
        ),
        Action(
            name="rotate",
            label=_("New secret"),
            explanation=_("For a day both secrets sign, so that the receiver can change over."),
            permission="orders_project.edit_endpoint",
            perform=_rotate,
        ),
        Action(
            name="off",
            label=_("Switch off"),
            explanation=_("It is told nothing until it is switched on again."),
            permission="orders_project.edit_endpoint",
            form=ShortReasonForm,
            perform=_switch_off,
            is_possible=lambda endpoint: endpoint.is_active,
            destructive=True,
        ),
        Action(
            name="on",
            label=_("Switch on"),
            explanation=_("It is told of what happens from now on."),
            permission="orders_project.edit_endpoint",
            perform=_switch_on,
            is_possible=lambda endpoint: not endpoint.is_active,
        ),
    )

    def panels_for(self, request: HttpRequest, row: Any) -> list[panels.Panel]:
        return [
            panels.newest(
                WebhookDelivery.objects.filter(endpoint=row).order_by("-id"),
                (_("at"), lambda one: show.page_link("orders", "webhookdelivery", one.pk, show.ago(one.created_at))),
                (_("type"), lambda one: one.type),
                (_("order"), lambda one: show.order_link(one.order_id)),
                (_("status"), lambda one: one.get_status_display()),
                (_("attempts"), lambda one: one.attempts),
                title=_("Deliveries"),
                more=show.list_url("orders", "webhookdelivery", f"q={row.pk}"),
                empty=_("Nothing has been sent to it yet."),
            )
        ]


@admin.register(WebhookDelivery)
class WebhookDeliveries(ReadOnlyAdmin):
    """What was told to whom."""

    list_display = ("type", show.order(), "endpoint", show.status(), "attempts", "next_at", "created_at")
    list_filter = ("status", Age)
    list_select_related = ("endpoint",)
    search_by = ("id", "event_id", "order_id", "endpoint_id")
    order = ("-id",)
    empty = _("Nothing has been sent yet. Register an address that is told of orders.")
    fields = (
        "endpoint", "type", show.order(), show.status(), "attempts", "tries", "next_at", "event_id",
        show.text("body", _("body")), "created_at",
    )  # fmt: skip
    page_actions = (
        Action(
            name="resend",
            label=_("Resend"),
            explanation=_("Sends it now, and goes through the schedule anew if it isn't taken."),
            permission="orders_project.resend_webhook",
            perform=_resend,
            is_possible=lambda delivery: delivery.endpoint.is_active,
        ),
    )

    def panels_for(self, request: HttpRequest, row: Any) -> list[panels.Panel]:
        return [
            panels.newest(
                WebhookAttempt.objects.filter(delivery=row).order_by("-number"),
                (_("number"), lambda one: one.number),
                (_("at"), lambda one: show.ago(one.at)),
                (_("seconds"), lambda one: f"{one.seconds:.3f}"),
                (_("answer"), lambda one: one.status_code or one.error),
                (_("response"), lambda one: show.preformatted(one.response[:2000]) if one.response else show.NOTHING),
                title=_("Attempts"),
                empty=_("It has not been sent yet."),
            )
        ]
