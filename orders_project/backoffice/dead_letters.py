"""The dead letters of all services, by what they died of."""

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

from common.admin import display as show
from common.admin.bulk import KINDS
from outbox import dead_letters
from outbox.consumers import model_of


def view(site: Any, request: HttpRequest) -> HttpResponse:
    """Groups of dead letters, with what can be done to each as a whole."""
    services = [service for service in settings.SERVICES_HERE if request.user.has_perm(f"{service}.view_deadletter")]
    if not services:
        raise PermissionDenied
    groups, silent = [], []
    for service in services:
        try:
            groups += list(_groups(request, service))
        except Error:
            silent.append(service)
    groups.sort(key=lambda group: -group["group"].letters)
    context = {**site.each_context(request), "title": _("Dead letters"), "groups": groups, "silent": silent}
    return TemplateResponse(request, "admin/dead_letters.html", context)


def _groups(request: HttpRequest, service: str) -> Iterator[dict[str, Any]]:
    for group in dead_letters.groups([service], dead_letters.Selection(), now=timezone.now()):
        newest = model_of(service, "DeadLetter").objects.filter(fingerprint=group.fingerprint, status="dead")
        newest = newest.order_by("-pk").values_list("pk", flat=True).first()
        yield {
            "group": group,
            "list": show.list_url(service, "deadletter", f"status__exact=dead&q={group.fingerprint}"),
            "preview": reverse(f"admin:{service}_deadletter_preview", args=[newest])
            if newest and request.user.has_perm(KINDS["replay"].permission)
            else "",
            "verbs": [
                {
                    "label": kind.label,
                    "destructive": verb == "discard",
                    "url": reverse(f"admin:{service}_deadletter_many", args=[verb])
                    + f"?fingerprint={group.fingerprint}",
                }
                for verb, kind in KINDS.items()
                if request.user.has_perm(kind.permission)
            ],
        }
