"""
Runs of an action over many rows of a list, which the processes of the back office perform in the background.

The rows are stored when the run is confirmed, so that none joins later. Each is acted on as from its own page: under a
number of its own, by the rules of the service, and in the name of whoever confirmed, as long as that person may do it.

# Note [Killed at any point]: a process claims a run for `LEASE`, anew for every few rows. If it dies, another one takes
the run over. The row at which it died may have been acted on; the number of that row tells, and nothing is done twice.
"""

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

from django.apps import apps
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db import Error, close_old_connections, transaction
from django.db.models import Count, Q
from django.http import HttpRequest
from django.utils import translation
from django.utils.translation import gettext as _g

from outbox import clock, context
from outbox.errors import OutboxError
from outbox.sqlstates import Verdict, is_unavailable, note, verdict_on

from ..errors import Refusal
from ..performed_actions import RequestIdReused
from ..reads import name_of, note_write
from . import conf
from .actions import Action, in_words, write_log

logger = logging.getLogger(__name__)

STEP = 10  # rows; afterwards a run that was stopped ends
LEASE = timedelta(minutes=2)  # longer than a step takes, however slow the databases are
POLL = 5.0  # seconds between two looks for runs that another process began, or left
KEPT = timedelta(days=30)  # the rows of a run that has ended; the numbers of them stay
BATCH = 1000
ATTEMPTS = 3  # at a row that changes meanwhile

DONE, SKIPPED, FAILED = "done", "skipped", "failed"

_wanted = threading.Event()


@dataclass(frozen=True)
class Result:
    """What became of a row, and what to say of it."""

    outcome: str
    said: str


def start(
    request: HttpRequest,
    *,
    model: Any,
    action: Action,
    number: UUID,
    keys: Iterable[str],
    values: dict[str, str],
    params: Any,
    text: str,
) -> Any:
    """
    Store a run over the rows with these primary keys, log it with this text, and return it.

    A form that is sent again starts nothing more: `number` is that of the form.
    """
    runs, keys = conf.bulk_runs(), list(keys)
    with transaction.atomic(using="default"):
        run, is_new = runs.objects.get_or_create(
            request_id=number,
            defaults={
                "page": model._meta.label_lower,
                "action": action.name,
                "params": params,
                "values": values,
                "total": len(keys),
                "by": request.user.get_username(),
                "user_id": request.user.pk,
                "language": translation.get_language() or "en",
                "started_at": clock.now("default"),
            },
        )
        if is_new:
            row = run.rows.model
            row.objects.bulk_create([row(run=run, key=key) for key in keys], batch_size=BATCH)
            write_log(request, model=model, text=text)
    transaction.on_commit(_wanted.set, using="default")
    return run


def stop(run: Any, request: HttpRequest) -> bool:
    """End a run after the rows that are in hand; return whether it was running."""
    return _end(run, request, "stopped", why=_g("Stopped by %(name)s.") % {"name": request.user.get_username()})


def counts(run: Any) -> dict[str, int]:
    """Return how many rows are done, skipped, failed, and still to be done ("")."""
    return run.results or dict(run.rows.order_by().values_list("outcome").annotate(Count("id")))


def action_of(run: Any) -> tuple[Any, Action]:
    """
    Return the page of the rows of a run, and its action.

    :raises LookupError: if this release has no such action
    """
    page = admin.site._registry.get(apps.get_model(run.page))
    for action in getattr(page, "page_actions", ()):
        if action.name == run.action:
            return page, action
    raise LookupError(run.action)


# Working it off ------------------------------------------------------------------------------------------------------


def begin() -> None:
    """Work off the runs of the back office in a thread of this process, as long as it lives."""
    threading.Thread(target=_work, args=(uuid4(),), name="bulk-runs", daemon=True).start()


def _work(me: UUID) -> None:
    while True:
        _wanted.wait(POLL)
        _wanted.clear()
        try:
            work_off(me)
            forget()
        except Exception as error:
            if isinstance(error, Error) and is_unavailable(error):
                note(error, where=__name__)
            else:
                logger.exception("bulk runs can't be worked off")
        finally:
            close_old_connections()


def work_off(me: UUID) -> None:
    """Perform what is left of every run that no other process has claimed."""
    runs = conf.bulk_runs().objects.filter(status="running").order_by("id")
    for run_id in list(runs.values_list("pk", flat=True)):
        while (run := _claim(run_id, me)) is not None:
            here = context.Context(correlation_id=run.pk.hex)
            with translation.override(run.language), context.acting(here):
                if not _step(run):
                    break


def _claim(run_id: UUID, me: UUID) -> Any:
    """The run, for this process alone; None if it has ended or another process has it."""
    runs, now = conf.bulk_runs().objects, clock.now("default")
    free = Q(claimed_by=me) | Q(claimed_until=None) | Q(claimed_until__lt=now)
    if runs.filter(free, pk=run_id, status="running").update(claimed_by=me, claimed_until=now + LEASE):
        return runs.get(pk=run_id)
    return None


def _step(run: Any) -> bool:
    """Act on a few more rows; return whether to go on."""
    request = _request_of(run)
    try:
        page, action = action_of(run)
    except LookupError:
        return not _end(run, request, "stopped", why=_g("This release does not have the action."))
    if request is None or not (action.is_permitted(request) and page.has_view_permission(request)):
        return not _end(run, request, "stopped", why=_g("%(name)s may not do this any more.") % {"name": run.by})
    rows = list(run.rows.filter(outcome="").order_by("id")[:STEP])
    for row in rows:
        try:
            result = _act(page, request, action, run, row.key)
        except Exception as error:
            if verdict_on(error) in (Verdict.WAIT, Verdict.REPEAT):
                note(error, where=__name__)
                return False  # the claim keeps others away meanwhile
            logger.exception("%s failed for %s", action.name, row.key)
            result = Result(FAILED, _g("An unexpected error occurred. The log of the back office has the details."))
        run.rows.filter(pk=row.pk, outcome="").update(outcome=result.outcome, said=result.said[:300])
    if rows:
        note_write(name_of(request))
    return bool(rows) or not _end(run, request, "finished")


def _request_of(run: Any) -> HttpRequest | None:
    """A request of whoever confirmed the run; None if that person has left."""
    user = get_user_model().objects.filter(pk=run.user_id, is_active=True, is_staff=True).first()
    if user is None:
        return None
    request = HttpRequest()
    request.user = user
    return request


def _act(page: Any, request: HttpRequest, action: Action, run: Any, key: str) -> Result:
    """Act on a row, as it is then: one that changes between reading and acting is read again."""
    for _attempt in range(ATTEMPTS):
        result, has_changed = _try(page, request, action, run, key)
        if not has_changed:
            break
    return result


def _try(page: Any, request: HttpRequest, action: Action, run: Any, key: str) -> tuple[Result, bool]:
    """Act on a row once; return what became of it, and whether it was only refused because it had just changed."""
    row = page.get_object(request, key)
    if row is None:
        return Result(SKIPPED, _g("It does not exist any more.")), False
    unbound: Any = action.form(row=row)
    data = {name: unbound.get_initial_for_field(one, name) for name, one in unbound.fields.items()}
    form = action.form(data | run.values | {"once": uuid5(run.request_id, key)}, row=row)
    if not form.is_valid():
        why = "; ".join(str(error) for errors in form.errors.values() for error in errors)
        return Result(SKIPPED, why), False
    try:
        message = page._perform(request, action, page._call(request, row, form), form)
    except RequestIdReused:  # it was done, and has brought the row into another state
        message = _g("This was already done; it was not done again.")
    except (Refusal, OutboxError) as refusal:
        return Result(SKIPPED, in_words(refusal)), refusal.code == "version_conflict"
    return Result(DONE, str(message or _g("Done: %(action)s.") % {"action": action.label})), False


def _end(run: Any, request: HttpRequest | None, status: str, *, why: str = "") -> bool:
    """End a run, and log it in the name of whose request it is, if it is one; return whether it was running."""
    with transaction.atomic(using="default"):
        ended = conf.bulk_runs().objects.filter(pk=run.pk, status="running")
        if not ended.update(status=status, why_stopped=why[:200], ended_at=clock.now("default")):
            return False
        if request is not None:
            found = counts(run)
            numbers = ", ".join(f"{found.get(one, 0)} {one}" for one in (DONE, SKIPPED, FAILED))
            text = f"{run.action} {status}: {numbers} of {run.total}. Bulk action {run.pk}."
            write_log(request, model=apps.get_model(run.page), text=text)
        return True


def forget() -> None:
    """Delete the rows of a run that ended long ago, but not how many of them were done."""
    runs = conf.bulk_runs().objects
    run = runs.filter(results={}, ended_at__lt=clock.now("default") - KEPT).order_by("id").first()
    if run is not None:
        with transaction.atomic(using="default"):
            runs.filter(pk=run.pk).update(results=counts(run))
            run.rows.all().delete()
