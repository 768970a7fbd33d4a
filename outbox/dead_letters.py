"""
What an operator may do with dead letters: find them, let them come again, or give them up. Every action is recorded.

Doors (the admin, `manage.py dlq`) call these functions; what a letter would do is shown by preview.py.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Count, Max, Min, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _g

from common.errors import Refusal

from .attempts import ATTEMPTS, LAST_ATTEMPT, last_attempt
from .consumers import model_of
from .message import MOST_ATTEMPTS, Letter, Unreadable
from .models import DeadLetter, DeadLetterAction


class Resolved(Refusal):
    """The dead letter has been replayed or discarded already."""

    code = "already_resolved"


class NotReplayable(Refusal):
    """There is no letter in it that could come again."""

    code = "not_replayable"


class Outcome(StrEnum):
    """What became of a replayed letter."""

    WAITING = "waiting"
    HANDLED = "handled"  # or, if it was on its way to somebody else, sent
    DIED = "died"


@dataclass(frozen=True)
class Selection:
    """Which dead letters of a service: all that fit every filter given."""

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
        """Whether it leaves out anything but what is resolved."""
        return self != Selection(status=self.status)

    def of(self, service: str, *, now: datetime) -> QuerySet[DeadLetter]:
        """Those of this service, the oldest first."""
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
    """Dead letters of one service that failed alike."""

    service: str
    fingerprint: str
    type: str
    reason: str
    letters: int
    oldest: datetime
    newest: datetime
    error: str  # of one of them


def groups(services: Iterable[str], selection: Selection, *, now: datetime) -> list[Group]:
    """The dead letters by what they died of, the most frequent first."""
    return sorted(
        (
            Group(service=service, **row)
            for service in services
            for row in selection.of(service, now=now)
            .order_by()
            .values("fingerprint", "type", "reason")
            .annotate(letters=Count("pk"), oldest=Min("died_at"), newest=Max("died_at"), error=Max("error"))
        ),
        key=lambda group: (-group.letters, group.fingerprint),
    )


def replay(*, letter: DeadLetter, by: str, now: datetime, canary: bool = False) -> None:
    """
    Let a letter come again, as the same message: once, however often this is called.

    It begins a new life, with as many attempts as a new letter. A canary has one only, so that its answer comes soon.

    :raises Resolved: if that has been done before, or the letter was discarded
    :raises NotReplayable: if its body is no letter
    """
    service = _service(letter)
    with transaction.atomic(using=service):
        dead = _lock(letter)
        inside = _inside(dead)
        attempt = last_attempt(inside.attempt) + 1 + (LAST_ATTEMPT if canary else 0)
        if attempt + ATTEMPTS > MOST_ATTEMPTS:
            raise NotReplayable(_g("It has been replayed too often."))
        to = dead.queue if dead.origin == DeadLetter.Origin.RELAY else service
        model_of(service, "Outgoing").post_again(inside, attempt=attempt, due_at=now, to=to)
        _resolve(dead, DeadLetter.Status.REPLAYED, by=by, now=now, detail={"attempt": attempt, "canary": canary})
    letter.refresh_from_db()


def discard(*, letter: DeadLetter, by: str, now: datetime, why: str = "") -> None:
    """
    Give a letter up; it stays to be looked at until it is purged.

    :raises Resolved: if it has been replayed or discarded before
    """
    with transaction.atomic(using=_service(letter)):
        _resolve(_lock(letter), DeadLetter.Status.DISCARDED, by=by, now=now, detail={"why": why} if why else {})
    letter.refresh_from_db()


def outcome(letter: DeadLetter) -> Outcome:
    """What has become of a letter since it was replayed."""
    service = _service(letter)
    if died_again(letter) is not None:
        return Outcome.DIED
    if letter.origin == DeadLetter.Origin.RELAY and letter.queue != service:
        unsent = model_of(service, "Outgoing").objects.filter(
            subject=letter.subject, message_id=letter.message_id, published_at=None
        )
        return Outcome.WAITING if unsent.exists() else Outcome.HANDLED
    handled = model_of(service, "Incoming").objects.filter(message_id=letter.message_id)
    return Outcome.HANDLED if handled.exists() else Outcome.WAITING


def died_again(letter: DeadLetter) -> DeadLetter | None:
    """The dead letter that a replayed letter has become, if it has."""
    again: DeadLetter | None = (
        model_of(_service(letter), "DeadLetter")
        .objects.filter(message_id=letter.message_id, status=DeadLetter.Status.DEAD)
        .exclude(pk=letter.pk)
        .first()
    )
    return again


def canary(*, letters: Iterable[DeadLetter], by: str, patience: timedelta) -> Iterator[tuple[DeadLetter, Outcome]]:
    """
    Replay these letters one by one, each once the one before has been answered; stop when one dies again.

    Yields each with its outcome: `WAITING` if there was none in time, which ends it as well.

    :raises Refusal: if one of them can't be replayed
    """
    for letter in letters:
        replay(letter=letter, by=by, now=timezone.now(), canary=True)
        answer = _await(letter, patience=patience)
        yield letter, answer
        if answer is not Outcome.HANDLED:
            return


def actions(letter: DeadLetter) -> QuerySet[DeadLetterAction]:
    """Who has done what to this letter, in order."""
    return DeadLetterAction.objects.using(_service(letter)).filter(dead_letter_id=letter.pk).order_by("pk")


def is_replayable(letter: DeadLetter) -> bool:
    """Whether there is a letter in it that could come again."""
    try:
        _inside(letter)
    except NotReplayable:
        return False
    return True


def _await(letter: DeadLetter, *, patience: timedelta) -> Outcome:
    give_up_at = time.monotonic() + patience.total_seconds()
    while (answer := outcome(letter)) is Outcome.WAITING and time.monotonic() < give_up_at:
        time.sleep(0.1)
    return answer


def _service(letter: DeadLetter) -> str:
    assert letter._state.db is not None, "a dead letter comes from a service's database"
    return letter._state.db


def _lock(letter: DeadLetter) -> DeadLetter:
    dead: DeadLetter = model_of(_service(letter), "DeadLetter").objects.select_for_update().get(pk=letter.pk)
    if dead.status != DeadLetter.Status.DEAD:
        raise Resolved(_g("It is %(status)s already.") % {"status": dead.get_status_display()})
    return dead


def _inside(dead: DeadLetter) -> Letter:
    try:
        return dead.letter()
    except Unreadable as refusal:
        raise NotReplayable(
            _g("There is no letter in it that could come again: %(why)s") % {"why": refusal}
        ) from refusal


def _resolve(dead: DeadLetter, status: DeadLetter.Status, *, by: str, now: datetime, detail: dict[str, Any]) -> None:
    dead.status, dead.resolved_at = status, now
    dead.save(update_fields=["status", "resolved_at"])
    DeadLetterAction.objects.using(_service(dead)).create(
        dead_letter_id=dead.pk,
        verb="replay" if status == DeadLetter.Status.REPLAYED else "discard",
        by=by,
        at=now,
        detail=detail,
    )
