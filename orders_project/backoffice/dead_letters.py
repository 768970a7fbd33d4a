"""The page with the dead letters of all services, grouped by failure."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db import Error
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from common.admin import conf, display, replays
from outbox import dead_letters
from outbox.services import model_of


def view(site: Any, request: HttpRequest) -> HttpResponse:
    """Show the groups of dead letters, with what can be done to each group."""
    services = [service for service in settings.SERVICES_HERE if request.user.has_perm(f"{service}.view_deadletter")]
    if not services:
        raise PermissionDenied
    groups, unreachable = [], []
    for service in services:
        try:
            groups += list(_groups(request, service))
        except Error:
            unreachable.append(service)
    groups.sort(key=lambda group: -group["group"].dead_letters)
    context = {**site.each_context(request), "title": _("Dead letters"), "groups": groups, "unreachable": unreachable}
    return TemplateResponse(request, "admin/dead_letters.html", context)


def _groups(request: HttpRequest, service: str) -> Iterator[dict[str, Any]]:
    for group in dead_letters.groups([service], dead_letters.Selection(), now=timezone.now()):
        newest = model_of(service, "DeadLetter").objects.filter(fingerprint=group.fingerprint, status="dead")
        newest = newest.order_by("-pk").values_list("pk", flat=True).first()
        yield {
            "group": group,
            "list": display.list_url(service, "deadletter", f"status__exact=dead&q={group.fingerprint}"),
            "preview": reverse(f"admin:{service}_deadletter_preview", args=[newest])
            if newest and replays.is_permitted(request)
            else "",
            "actions": list(_actions(request, service, group.fingerprint)),
        }


def _actions(request: HttpRequest, service: str, fingerprint: str) -> Iterator[dict[str, Any]]:
    """What can be done to all dead letters of a group."""
    page = f"admin:{service}_deadletter"
    if replays.is_permitted(request):
        url = f"{reverse(f'{page}_replay')}?fingerprint={fingerprint}"
        yield {"label": replays.LABEL, "destructive": False, "url": url}
    if request.user.has_perm(conf.permission("discard_letter")):
        url = f"{reverse(f'{page}_all', args=['discard'])}?status__exact=dead&q={fingerprint}"
        yield {"label": _("Discard"), "destructive": True, "url": url}
