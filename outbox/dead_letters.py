"""
What an operator can do with dead letters: find them, replay them, or discard them. Every action is recorded.

The admin and `manage.py dlq` call these functions; what a replay would do is shown by preview.py.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Count, Max, Min, QuerySet
from django.utils.translation import gettext as _g

from . import clock, corrections
from .attempts import ATTEMPTS, LAST_ATTEMPT, last_attempt
from .envelope import MAX_ATTEMPT, Envelope
from .errors import OutboxError, ReasonMissing, Unreadable
from .models import FORGOTTEN, DeadLetter, DeadLetterAction
from .services import database_of, model_of

CANARY_TIMEOUT = timedelta(minutes=1)


class AlreadyResolved(OutboxError):
    """The dead letter has been replayed or discarded already."""

    code = "already_resolved"


class NotReplayable(OutboxError):
    """The dead letter has no message that could be sent again."""

    code = "not_replayable"


class AlreadyHandled(OutboxError):
    """The message has had its effect, so correcting it would do nothing."""

    code = "already_handled"


class MayHaveBeenHandled(OutboxError):
    """The message is older than the inbox remembers, and nobody has said that it was never handled."""

    code = "may_have_been_handled"


class Outcome(StrEnum):
    """What became of a replayed message."""

    WAITING = "waiting"
    HANDLED = "handled"  # or, if it is for somebody else, sent
    DIED = "died"
    UNANSWERED = "unanswered"  # of a canary: neither of the two in time


@dataclass(frozen=True)
class Selection:
    """Which dead letters of a service: those that match every filter given."""

    ids: Sequence[UUID] = ()
    type: str = ""
    reason: str = ""
    fingerprint: str = ""
    subject: str = ""
    status: str = DeadLetter.Status.DEAD
    older_than: timedelta | None = None
    younger_than: timedelta | None = None

    @property
    def is_narrow(self) -> bool:
        """Whether there is another filter than the status."""
        return self != Selection(status=self.status)

    def of(self, service: str, *, now: datetime) -> QuerySet[DeadLetter]:
        """Return those of this service, the oldest first."""
        fits: dict[str, Any] = {
            name: value
            for name in ("type", "reason", "fingerprint", "subject", "status")
            if (value := getattr(self, name))
        }
        if self.ids:
            fits["pk__in"] = self.ids
        if self.older_than is not None:
            fits["died_at__lte"] = now - self.older_than
        if self.younger_than is not None:
            fits["died_at__gte"] = now - self.younger_than
        found: QuerySet[DeadLetter] = model_of(service, "DeadLetter").objects.filter(**fits).order_by("died_at", "pk")
        return found


@dataclass(frozen=True)
class Group:
    """Dead letters of one service with the same failure."""

    service: str
    fingerprint: str
    type: str
    reason: str
    dead_letters: int
    oldest: datetime
    newest: datetime
    error: str  # of one of them


def groups(services: Iterable[str], selection: Selection, *, now: datetime) -> list[Group]:
    """Return the dead letters by failure, the most frequent first."""
    return sorted(
        (
            Group(service=service, **row)
            for service in services
            for row in selection.of(service, now=now)
            .order_by()
            .values("fingerprint", "type", "reason")
            .annotate(dead_letters=Count("pk"), oldest=Min("died_at"), newest=Max("died_at"), error=Max("error"))
        ),
        key=lambda group: (-group.dead_letters, group.fingerprint),
    )


def replay(
    dead_letter: DeadLetter,
    *,
    by: str,
    now: datetime,
    canary: bool = False,
    never_handled: bool = False,
    data: Any = None,
    why: str = "",
) -> None:
    """
    Send the message again, as the same message: once, however often this is called.

    It gets as many attempts as a new message. A canary gets one, so that its outcome is known soon.

    :param never_handled: whoever replays it has found out that it was not handled, though the inbox can't tell
    :param data: the corrected data of the message; None: as they are. The dead letter keeps the original
    :param why: for the record; a correction must have it
    :raises AlreadyResolved: if the dead letter has been replayed or discarded
    :raises AlreadyHandled: if it is to be corrected and has had its effect already
    :raises NotCorrectable: if the corrected data are not those of such a message
    :raises ReasonMissing: if a correction has no reason
    :raises MayHaveBeenHandled: if the inbox can't tell, and nobody has found out
    :raises NotReplayable: if its body is no message, or it has been replayed too often
    """
    service = _service(dead_letter)
    with transaction.atomic(using=database_of(service)):
        dead = _lock(dead_letter)
        envelope = _envelope(dead)
        if is_forgotten(dead) and not never_handled:
            raise MayHaveBeenHandled(
                _g("It is older than the inbox remembers, so it may have been handled already. Find out whether it was;"
                   " then discard it, or replay it as one that was never handled.")
            )  # fmt: skip
        detail: dict[str, Any] = {"why": why} if why else {}
        if data is not None:
            envelope, changed = _correct(service, envelope, data, why=why)
            detail["changes"] = changed
        attempt = last_attempt(envelope.attempt) + 1 + (LAST_ATTEMPT if canary else 0)
        if attempt + ATTEMPTS > MAX_ATTEMPT:
            raise NotReplayable(_g("It has been replayed too often."))
        to = dead.queue if dead.origin == DeadLetter.Origin.RELAY else service
        model_of(service, "Outgoing").post_again(envelope, attempt=attempt, due_at=now, to=to)
        detail |= {"attempt": attempt, "canary": canary} | ({"never_handled": True} if never_handled else {})
        verb = "replay" if data is None else "correct"
        _resolve(dead, DeadLetter.Status.REPLAYED, verb=verb, by=by, now=now, detail=detail)
    dead_letter.refresh_from_db()


def discard(dead_letter: DeadLetter, *, by: str, now: datetime, why: str) -> None:
    """
    Give the message up; the dead letter can be looked at until it is purged.

    :raises AlreadyResolved: if it has been replayed or discarded before
    :raises ReasonMissing: without a reason
    """
    _justify(why)
    with transaction.atomic(using=database_of(_service(dead_letter))):
        _resolve(_lock(dead_letter), DeadLetter.Status.DISCARDED, verb="discard", by=by, now=now, detail={"why": why})
    dead_letter.refresh_from_db()


def outcome(dead_letter: DeadLetter) -> Outcome:
    """Return what has become of a message since it was replayed."""
    service = _service(dead_letter)
    if died_again(dead_letter) is not None:
        return Outcome.DIED
    if dead_letter.origin == DeadLetter.Origin.RELAY and dead_letter.queue != service:
        unsent = model_of(service, "Outgoing").objects.filter(
            subject=dead_letter.subject, message_id=dead_letter.message_id, published_at=None
        )
        return Outcome.WAITING if unsent.exists() else Outcome.HANDLED
    handled = model_of(service, "Incoming").objects.filter(message_id=dead_letter.message_id)
    return Outcome.HANDLED if handled.exists() else Outcome.WAITING


def canary_outcome(
    dead_letter: DeadLetter, *, sent_at: datetime, now: datetime, timeout: timedelta = CANARY_TIMEOUT
) -> Outcome:
    """Return the outcome of a canary that was sent then; after the timeout it is no longer waiting but unanswered."""
    found = outcome(dead_letter)
    return Outcome.UNANSWERED if found is Outcome.WAITING and now - sent_at > timeout else found


def died_again(dead_letter: DeadLetter) -> DeadLetter | None:
    """Return the open dead letter that a replayed message has become, if there is one."""
    again: DeadLetter | None = (
        model_of(_service(dead_letter), "DeadLetter")
        .objects.filter(message_id=dead_letter.message_id, status=DeadLetter.Status.DEAD)
        .exclude(pk=dead_letter.pk)
        .first()
    )
    return again


def others_of(dead_letter: DeadLetter) -> QuerySet[DeadLetter]:
    """Return the other dead letters that the same message has become, the newest first."""
    rows = model_of(_service(dead_letter), "DeadLetter").objects.exclude(pk=dead_letter.pk)
    found: QuerySet[DeadLetter] = (
        rows.filter(message_id=dead_letter.message_id) if dead_letter.message_id else rows.none()
    )
    return found.defer("traceback", "headers", "body").order_by("-pk")[:20]


def replay_canaries(
    dead_letters: Iterable[DeadLetter],
    *,
    by: str,
    timeout: timedelta = CANARY_TIMEOUT,
    never_handled: bool = False,
) -> Iterator[tuple[DeadLetter, Outcome]]:
    """
    Replay these one by one as canaries, each after the one before was handled; stop when one was not.

    Yields each with its outcome, which is never `WAITING`.

    :raises OutboxError: if one of them can't be replayed
    """
    for dead_letter in dead_letters:
        database = database_of(_service(dead_letter))
        sent_at = clock.now(database)
        replay(dead_letter, by=by, now=sent_at, canary=True, never_handled=never_handled)
        while (
            found := canary_outcome(dead_letter, sent_at=sent_at, now=clock.now(database), timeout=timeout)
        ) is Outcome.WAITING:
            time.sleep(0.1)
        yield dead_letter, found
        if found is not Outcome.HANDLED:
            return


def actions(dead_letter: DeadLetter) -> QuerySet[DeadLetterAction]:
    """Return what was done with this dead letter and by whom, in order."""
    recorded = DeadLetterAction.objects.using(database_of(_service(dead_letter)))
    return recorded.filter(dead_letter_id=dead_letter.pk).order_by("pk")


def is_replayable(dead_letter: DeadLetter) -> bool:
    """Whether it has a message that could be sent again."""
    try:
        _envelope(dead_letter)
    except NotReplayable:
        return False
    return True


def is_forgotten(dead_letter: DeadLetter) -> bool:
    """Whether nobody but a person can tell if its message was handled: the inbox row may have been purged."""
    return dead_letter.reason == FORGOTTEN


def _service(dead_letter: DeadLetter) -> str:
    service = dead_letter._meta.app_label
    assert service != "outbox", "a dead letter is reached through the proxy of its service"
    return service


def _lock(dead_letter: DeadLetter) -> DeadLetter:
    rows = model_of(_service(dead_letter), "DeadLetter").objects
    dead: DeadLetter = rows.select_for_update().get(pk=dead_letter.pk)
    if dead.status != DeadLetter.Status.DEAD:
        raise AlreadyResolved(_g("It is %(status)s already.") % {"status": dead.get_status_display()})
    return dead


def _envelope(dead: DeadLetter) -> Envelope:
    try:
        return dead.envelope()
    except Unreadable as refusal:
        text = _g("It has no message that could be sent again: %(why)s") % {"why": refusal}
        raise NotReplayable(text) from refusal


def _correct(service: str, envelope: Envelope, data: Any, *, why: str) -> tuple[Envelope, list[dict[str, str]]]:
    """The corrected envelope and what is different in it."""
    _justify(why)
    if model_of(service, "Incoming").seen(envelope):
        raise AlreadyHandled(_g("The message has had its effect already, so a correction would do nothing."))
    corrected = corrections.correct(envelope, data)
    return corrected, [asdict(change) for change in corrections.changes(envelope.data, data)]


def _justify(why: str) -> None:
    if not why.strip():
        raise ReasonMissing(_g("Give a reason."))


def _resolve(
    dead: DeadLetter, status: DeadLetter.Status, *, verb: str, by: str, now: datetime, detail: dict[str, Any]
) -> None:
    dead.status, dead.resolved_at = status, now
    dead.save(update_fields=["status", "resolved_at"])
    DeadLetterAction.objects.using(database_of(_service(dead))).create(
        dead_letter_id=dead.pk,
        verb=verb,
        by=by,
        at=now,
        detail=detail,
    )
