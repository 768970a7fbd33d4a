"""
Replays many dead letters: a canary first, then in steps, with progress shown after each.

# Note [Steps, not a task]: each step is a request of the page that shows the progress. When the page is closed, the run
stops: what has failed once is not sent again unseen.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from django.core import signing
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from outbox import clock, dead_letters
from outbox.dead_letters import Outcome, Selection
from outbox.errors import OutboxError
from outbox.models import DeadLetter
from outbox.services import database_of

from . import conf
from .progress import Progress

STEP = 25  # dead letters
MAX_IDS = 1000
SALT = "admin.replay_run"
MAX_AGE = 86_400  # seconds


def _now(service: str) -> datetime:
    return clock.now(database_of(service))


LABEL = _("Replay")
EXPLANATION = _(
    "The oldest message is sent first, as a canary with a single attempt. The others follow once it has been"
    " handled. If the same failure occurs again, the run stops."
)


def is_permitted(request: HttpRequest) -> bool:
    return request.user.has_perm(conf.permission("replay_letter"))


@dataclass(frozen=True, kw_only=True)
class ReplayRun(Progress):
    """The progress of a run. It travels through the browser, signed."""

    service: str
    fingerprint: str = ""
    ids: list[str] = field(default_factory=list)
    started: float = 0.0
    canary: str = ""  # the dead letter whose outcome is awaited
    canary_sent: float = 0.0
    stopped: str = ""  # why it ended early

    @property
    def finished(self) -> bool:
        return bool(self.stopped) or (self.started > 0 and not self.remaining().exists())

    @property
    def start(self) -> datetime:
        return datetime.fromtimestamp(
            self.started or _now(self.service).timestamp(), tz=timezone.get_default_timezone()
        )

    def remaining(self) -> QuerySet[DeadLetter]:
        """The dead letters that are still to be processed, without those that are newer than the run."""
        selection = Selection(fingerprint=self.fingerprint, ids=[UUID(one) for one in self.ids])
        return selection.of(self.service, now=_now(self.service)).filter(died_at__lte=self.start)

    def sealed(self) -> str:
        return signing.dumps(asdict(self), salt=SALT, compress=True)

    @classmethod
    def unsealed(cls, text: str) -> Self:
        """
        Return the run in a signed text.

        :raises Http404: if the signature is wrong
        """
        try:
            return cls(**signing.loads(text, salt=SALT, max_age=MAX_AGE))
        except signing.BadSignature as error:
            raise Http404 from error


def view(admin: Any, request: HttpRequest, log: Callable[[str], None]) -> HttpResponse:
    """Ask for confirmation; then perform one step with each request, and show the progress."""
    if not (is_permitted(request) and admin.has_view_permission(request)):
        raise PermissionDenied
    if "run" in request.POST:
        run = ReplayRun.unsealed(request.POST["run"])
        if run.service != admin.opts.app_label:
            raise Http404
        if not run.started:
            run = replace(run, started=_now(run.service).timestamp())
            log(f"replay: {run.total} dead letters of {run.service}, {run.fingerprint or 'selected'}.")
        run = step(run, by=request.user.get_username())
        if run.finished:
            log(f"replay: {run.done} of {run.total} done. {run.stopped}")
    else:
        run = _requested(admin, request)
    context = {
        **admin.admin_site.each_context(request),
        "opts": admin.opts,
        "title": LABEL,
        "explanation": EXPLANATION,
        "run": run,
        "sealed": run.sealed(),
    }
    return TemplateResponse(request, "admin/replay_run.html", context)


def _requested(admin: Any, request: HttpRequest) -> ReplayRun:
    ids = request.POST.getlist("ids") or request.GET.getlist("ids")
    try:
        ids = [str(UUID(one)) for one in ids[:MAX_IDS]]
    except ValueError as error:
        raise Http404 from error
    fingerprint = request.GET.get("fingerprint", "")[:16]
    if not (ids or fingerprint):
        raise Http404
    run = ReplayRun(service=admin.opts.app_label, fingerprint=fingerprint, ids=ids)
    return replace(run, total=run.remaining().count())


def step(run: ReplayRun, *, by: str) -> ReplayRun:
    """Replay a few more dead letters; return the new progress."""
    run = _with_canary(run, by=by)
    if run.stopped or run.canary:
        return run
    if run.done and _same_failure_occurred(run):
        return replace(run, stopped=_g("The same failure has occurred again."))
    for dead_letter in run.remaining()[:STEP]:
        try:
            dead_letters.replay(dead_letter, by=by, now=_now(run.service))
        except dead_letters.AlreadyResolved:
            pass  # somebody else was faster
        except OutboxError as refusal:
            return replace(run, stopped=f"{dead_letter}: {refusal}")
        run = replace(run, done=run.done + 1)
    return run


def _with_canary(run: ReplayRun, *, by: str) -> ReplayRun:
    """Send the canary, or look at its outcome. The others may follow when no canary is awaited any more."""
    if run.canary:
        return _judged(run)
    first = run.remaining().first()
    if run.done or first is None:
        return run
    try:
        dead_letters.replay(first, by=by, now=_now(run.service), canary=True)
    except OutboxError as refusal:
        return replace(run, stopped=f"{first}: {refusal}")
    return replace(run, canary=str(first.pk), canary_sent=_now(run.service).timestamp())


def _judged(run: ReplayRun) -> ReplayRun:
    selection = Selection(ids=[UUID(run.canary)], status=DeadLetter.Status.REPLAYED)
    canary = selection.of(run.service, now=_now(run.service)).first()
    if canary is None:
        return replace(run, stopped=_g("The dead letter of the canary no longer exists."))
    sent_at = datetime.fromtimestamp(run.canary_sent, tz=timezone.get_default_timezone())
    match dead_letters.canary_outcome(canary, sent_at=sent_at, now=_now(run.service)):
        case Outcome.HANDLED:
            return replace(run, canary="", done=run.done + 1)
        case Outcome.DIED:
            return replace(run, done=1, stopped=_g("The canary failed again. No other message was replayed."))
        case Outcome.UNANSWERED:
            return replace(
                run, done=1, stopped=_g("The canary was not handled in time. No other message was replayed.")
            )
    return run


def _same_failure_occurred(run: ReplayRun) -> bool:
    if not run.fingerprint:
        return False
    failed = Selection(fingerprint=run.fingerprint).of(run.service, now=_now(run.service))
    return failed.filter(died_at__gt=run.start).exists()
