"""
Many dead letters at once: the first as a canary, the others when it has been handled, in steps that show how far it is.

# Note [Steps, not a task]: each step is a request of the person who watches. Close the page and it stops; nothing runs
on unseen, and there is no half-done task to find and kill.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.core import signing
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from outbox import dead_letters
from outbox.dead_letters import Outcome, Selection
from outbox.models import DeadLetter

from ..errors import Refusal

A_STEP = 25  # letters
PATIENCE = 60  # seconds with a canary
SALT = "outbox.errand"
MOST_IDS = 1000


@dataclass(frozen=True)
class Kind:
    """What can be done to many letters."""

    permission: str
    label: Any
    explanation: Any


KINDS = {
    "replay": Kind(
        "orders_project.replay_letter",
        _("Replay"),
        _("The oldest comes again first, as a canary with one attempt. The others follow once it has been handled."
          " When the same failure returns, it stops."),
    ),
    "discard": Kind(
        "orders_project.discard_letter", _("Discard"), _("They are given up, and stay to be looked at until purged.")
    ),
}  # fmt: skip


@dataclass(frozen=True)
class BulkRun:
    """How far it is; travels through the browser, signed."""

    service: str
    verb: str
    total: int = 0
    done: int = 0
    refused: int = 0
    fingerprint: str = ""
    ids: list[str] = field(default_factory=list)
    started: float = 0.0
    canary: str = ""
    canary_since: float = 0.0
    stopped: str = ""

    @property
    def finished(self) -> bool:
        return bool(self.stopped) or (self.started > 0 and not self.left().exists())

    @property
    def percent(self) -> int:
        return round(100 * (self.done + self.refused) / self.total) if self.total else 100

    def left(self) -> QuerySet[DeadLetter]:
        """The letters still to be dealt with; those that died after the start are not among them."""
        selection = Selection(fingerprint=self.fingerprint, ids=[UUID(one) for one in self.ids])
        found = selection.of(self.service, now=timezone.now())
        started = datetime.fromtimestamp(self.started or time.time(), tz=timezone.get_default_timezone())
        return found.filter(died_at__lte=started)

    def sealed(self) -> str:
        return signing.dumps(asdict(self), salt=SALT)


def unsealed(text: str) -> BulkRun:
    try:
        return BulkRun(**signing.loads(text, salt=SALT, max_age=86_400))
    except signing.BadSignature as error:
        raise Http404 from error


def view(window: Any, request: HttpRequest, verb: str, log: Callable[[HttpRequest, str], None]) -> HttpResponse:
    """Ask; then, step by step, do it and show how far it is."""
    if verb not in KINDS:
        raise Http404
    if not (request.user.has_perm(KINDS[verb].permission) and window.has_view_permission(request)):
        raise PermissionDenied
    if "errand" in request.POST:
        errand = unsealed(request.POST["errand"])
        if errand.verb != verb or errand.service != window.opts.app_label:
            raise Http404
        who = request.user.get_username()
        if not errand.started:
            errand = replace(errand, started=time.time())
            log(
                request, f"{verb}: {errand.total} dead letters of {errand.service}, {errand.fingerprint or 'selected'}."
            )
        errand = step(errand, by=who)
        if errand.finished:
            log(request, f"{verb}: {errand.done} done, {errand.refused} refused. {errand.stopped}")
    else:
        errand = _asked_for(window, request, verb)
    context = {
        **window.admin_site.each_context(request),
        "opts": window.opts,
        "title": KINDS[verb].label,
        "explains": KINDS[verb].explanation,
        "errand": errand,
        "sealed": errand.sealed(),
        "list_url": "../../",
    }
    return TemplateResponse(request, "admin/errand.html", context)


def _asked_for(window: Any, request: HttpRequest, verb: str) -> BulkRun:
    ids = request.POST.getlist("ids") or request.GET.getlist("ids")
    try:
        ids = [str(UUID(one)) for one in ids[:MOST_IDS]]
    except ValueError as error:
        raise Http404 from error
    errand = BulkRun(
        service=window.opts.app_label, verb=verb, fingerprint=request.GET.get("fingerprint", "")[:16], ids=ids
    )
    if not (errand.ids or errand.fingerprint):
        raise Http404
    return replace(errand, total=errand.left().count())


def step(errand: BulkRun, *, by: str) -> BulkRun:
    """Deal with a few more."""
    if errand.verb == "replay":
        errand = _with_canary(errand, by=by)
        if errand.stopped or errand.canary:
            return errand
        if errand.done and _same_failure_returned(errand):
            return replace(errand, stopped=_g("The same failure has returned."))
    done, refused = 0, 0
    for letter in errand.left()[:A_STEP]:
        try:
            if errand.verb == "replay":
                dead_letters.replay(letter=letter, by=by, now=timezone.now())
            else:
                dead_letters.discard(letter=letter, by=by, now=timezone.now(), why=f"with {errand.total} others")
            done += 1
        except dead_letters.Resolved:
            done += 1
        except Refusal as refusal:
            return replace(errand, done=errand.done + done, refused=1, stopped=f"{letter}: {refusal}")
    return replace(errand, done=errand.done + done, refused=errand.refused + refused)


def _with_canary(errand: BulkRun, *, by: str) -> BulkRun:
    """Send the canary, or see what has become of it; without one in the air, the others may follow."""
    if errand.canary:
        return _judge(errand)
    first = errand.left().first()
    if errand.done or first is None:
        return errand
    try:
        dead_letters.replay(letter=first, by=by, now=timezone.now(), canary=True)
    except Refusal as refusal:
        return replace(errand, refused=1, stopped=f"{first}: {refusal}")
    return replace(errand, canary=str(first.pk), canary_since=time.time())


def _judge(errand: BulkRun) -> BulkRun:
    dead = Selection(ids=[UUID(errand.canary)], status=DeadLetter.Status.REPLAYED).of(
        errand.service, now=timezone.now()
    )
    letter = dead.first()
    answer = dead_letters.outcome(letter) if letter is not None else Outcome.WAITING
    if answer is Outcome.HANDLED:
        return replace(errand, canary="", done=errand.done + 1)
    if answer is Outcome.DIED:
        return replace(errand, done=1, stopped=_g("The canary died again. Nothing else was replayed."))
    if time.time() - errand.canary_since > PATIENCE:
        return replace(errand, done=1, stopped=_g("The canary has had no answer. Nothing else was replayed."))
    return errand


def _same_failure_returned(errand: BulkRun) -> bool:
    if not errand.fingerprint:
        return False
    dead = Selection(fingerprint=errand.fingerprint).of(errand.service, now=timezone.now())
    started = datetime.fromtimestamp(errand.started, tz=timezone.get_default_timezone())
    return dead.filter(died_at__gt=started).exists()
