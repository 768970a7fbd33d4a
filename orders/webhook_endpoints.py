"""
The endpoints that webhooks are sent to: who may have one, at which address, and for which events.

The API of clients and the back office call the same functions.
"""

import difflib
import hashlib
import json
from collections.abc import Collection, Iterable
from datetime import datetime

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _g

from common.errors import NotDuringUpgrade, Refusal
from common.locks import take_turn
from common.principal import Principal

from . import outbound_http, webhook_secrets
from .models import Status, WebhookEndpoint

KINDS = (
    "order.created",
    *(f"order.{status}" for status in Status.values if status not in ("pending", "reserved")),
    "order.refunded",
    "order.refund_failed",
    "order.disputed",
)
FAILED = (outbound_http.Refused, outbound_http.Unreachable)


class BadEndpoint(Refusal):
    """This address or these events cannot be registered; `errors` says why."""

    code = "invalid"


class NoSuchEndpoint(Refusal):
    """There is no such webhook endpoint, or it belongs to another client."""

    code = "endpoint_not_found"


class TooManyEndpoints(Refusal):
    """The client has as many webhook endpoints as one may have. Delete one that is not needed."""

    code = "too_many_endpoints"


class EndpointChanged(Refusal):
    """The webhook endpoint has changed since the caller looked at it."""

    code = "version_conflict"


def endpoints_of(principal: Principal) -> QuerySet[WebhookEndpoint]:
    """The endpoints that a principal may see. Those that were deleted are seen in the back office only."""
    return principal.own(WebhookEndpoint.objects.filter(deleted_at=None))


def get(*, endpoint_id: str, principal: Principal, lock: bool = False) -> WebhookEndpoint:
    """
    Return an endpoint; locked, in a transaction of orders.

    :raises NoSuchEndpoint: if there is none that the principal may see
    """
    rows = endpoints_of(principal)
    found = (rows.select_for_update() if lock else rows).filter(pk=endpoint_id).first()
    if found is None:
        raise NoSuchEndpoint(_g("There is no such webhook endpoint."))
    return found


def version_of(endpoint: WebhookEndpoint) -> str:
    """A text that differs whenever something of the endpoint does that its client can see: its ETag."""
    seen = [endpoint.url, endpoint.events, endpoint.description, endpoint.is_active, endpoint.disabled_because]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:20]


def look_up(*, url: str) -> None:
    """
    Look up the host of an address before it is registered, so that whoever registers it hears of a mistake at once.

    Do this before the transaction, which must not wait for a stranger's DNS. Whether something is sent to the address
    is decided each time that it is sent: see `outbound_http.post`.

    :raises BadEndpoint: if the address is not one that webhooks are sent to
    :raises TooManyChecks: if too many addresses are being checked
    """
    try:
        outbound_http.check(url)
    except FAILED as failed:
        raise BadEndpoint(str(failed), errors={"url": [str(failed)]}) from failed


def mistakes(*, url: str | None = None, events: Iterable[str] = ()) -> dict[str, list[str]]:
    """What is wrong with the form of an address and with the names of events, by field."""
    errors = {}
    if url is not None:
        try:
            outbound_http.target(url)
        except outbound_http.Refused as refused:
            errors["url"] = [str(refused)]
    for number, kind in enumerate(events):
        if kind not in KINDS:
            errors[f"events[{number}]"] = [_no_such_event(kind)]
    return errors


def _no_such_event(kind: str) -> str:
    if near := difflib.get_close_matches(kind, KINDS):
        return _g("There is no such event. Did you mean %(near)s?") % {"near": ", ".join(near)}
    return _g("There is no such event. GET /event-types lists those that there are.")


def register(
    *,
    url: str,
    events: Iterable[str] = (),
    description: str = "",
    principal: str = "",
    hears_all: bool = False,
    actor: str,
    now: datetime,
) -> WebhookEndpoint:
    """
    Register an address for these events, or for all of them; return the endpoint with its `new_secret`.

    It hears of the orders of this principal only or, with `hears_all`, of those of everybody. The host is not looked up
    here: see `look_up`.

    :raises BadEndpoint: if the address is of a form that webhooks are not sent to, or an event is unknown
    :raises NotDuringUpgrade: if processes of the release before run, which know of endpoints for everybody only
    :raises TooManyEndpoints: if the client has as many as one may have
    """
    if settings.UPGRADING and not hears_all:
        raise NotDuringUpgrade
    wanted = list(events)
    _check(url=url, events=wanted)
    with transaction.atomic(using="orders"):
        if not hears_all:
            _check_limit(principal)
        endpoint = WebhookEndpoint.objects.create(
            url=url,
            events=sorted(set(wanted)),
            description=description,
            principal="" if hears_all else principal,
            hears_all=hears_all,
            created_by=actor,
            created_at=now,
        )
        endpoint.new_secret = webhook_secrets.issue(endpoint_id=endpoint.pk, now=now)
    return endpoint


def _check(*, url: str | None = None, events: Iterable[str] = ()) -> None:
    if errors := mistakes(url=url, events=events):
        raise BadEndpoint(" ".join(text for texts in errors.values() for text in texts), errors=errors)


def _check_limit(principal: str) -> None:
    """Count the endpoints of a client, one request after the other. The lock ends with the transaction."""
    take_turn("orders", f"webhook endpoints of {principal}")
    limit = settings.WEBHOOK_MAX_ENDPOINTS
    if WebhookEndpoint.objects.filter(principal=principal, hears_all=False, deleted_at=None).count() >= limit:
        raise TooManyEndpoints(_g("A client has at most %(limit)d webhook endpoints.") % {"limit": limit})


def change(
    *,
    endpoint_id: str,
    principal: Principal,
    versions: Collection[str] | None = None,
    url: str | None = None,
    events: Iterable[str] | None = None,
    description: str | None = None,
    is_active: bool | None = None,
) -> WebhookEndpoint:
    """
    Change what is given of an endpoint. What is on its way goes to the new address, which is not looked up here: see
    `look_up`.

    :param versions: accept one of these only: see `version_of`
    :raises NoSuchEndpoint: if there is none that the principal may see
    :raises EndpointChanged: if it is at another version
    :raises BadEndpoint: if the address is of a form that webhooks are not sent to, or an event is unknown
    """
    get(endpoint_id=endpoint_id, principal=principal)
    wanted = None if events is None else list(events)
    _check(url=url, events=wanted or ())
    with transaction.atomic(using="orders"):
        endpoint = _locked(endpoint_id, principal, versions)
        if url is not None:
            endpoint.url = url
        if wanted is not None:
            endpoint.events = sorted(set(wanted))
        if description is not None:
            endpoint.description = description
        if is_active is not None:
            endpoint.is_active = is_active
            endpoint.disabled_because = "" if is_active else endpoint.disabled_because
        endpoint.save(update_fields=["url", "events", "description", "is_active", "disabled_because"])
    return endpoint


def _locked(endpoint_id: str, principal: Principal, versions: Collection[str] | None) -> WebhookEndpoint:
    endpoint = get(endpoint_id=endpoint_id, principal=principal, lock=True)
    if versions is not None and version_of(endpoint) not in versions:
        raise EndpointChanged(_g("The endpoint has changed since you looked at it. Look at it again."))
    return endpoint


@transaction.atomic(using="orders")
def rotate(*, endpoint_id: str, principal: Principal, now: datetime) -> WebhookEndpoint:
    """
    Give an endpoint a `new_secret`. For a day, webhooks are signed with the previous one too.

    :raises NoSuchEndpoint: if there is none that the principal may see
    """
    endpoint = get(endpoint_id=endpoint_id, principal=principal, lock=True)
    endpoint.new_secret = webhook_secrets.issue(endpoint_id=endpoint.pk, now=now)
    return endpoint


@transaction.atomic(using="orders")
def switch(*, endpoint_id: str, on: bool, reason: str = "") -> WebhookEndpoint:
    """
    Switch an endpoint on or off; one that was deleted stays off.

    :raises NoSuchEndpoint: if it was deleted and is to be switched on
    """
    endpoint = WebhookEndpoint.objects.select_for_update().get(pk=endpoint_id)
    if endpoint.deleted_at is not None:
        if on:
            raise NoSuchEndpoint(_g("This webhook endpoint was deleted."))
        return endpoint
    endpoint.is_active, endpoint.disabled_because = on, "" if on else reason[:50]
    endpoint.save(update_fields=["is_active", "disabled_because"])
    return endpoint


@transaction.atomic(using="orders")
def delete(
    *, endpoint_id: str, principal: Principal, versions: Collection[str] | None = None, now: datetime
) -> WebhookEndpoint:
    """
    Delete an endpoint: nothing more is sent to it, and its secrets are erased. Staff still see its deliveries.

    :param versions: accept one of these only: see `version_of`
    :raises NoSuchEndpoint: if there is none that the principal may see
    :raises EndpointChanged: if it is at another version
    """
    endpoint = _locked(endpoint_id, principal, versions)
    endpoint.is_active, endpoint.disabled_because, endpoint.deleted_at = False, "deleted", now
    endpoint.save(update_fields=["is_active", "disabled_because", "deleted_at"])
    webhook_secrets.forget(endpoint_id=endpoint.pk)
    return endpoint
