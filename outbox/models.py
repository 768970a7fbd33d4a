"""
The mailbox of a room: what it sends, what it has seen, and what could not be delivered.

The tables live in every room's database. A room reaches its own through proxies that it declares
(`payments.models.Outgoing`), so that no call site can forget the database.
"""

import hashlib
import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Self

from django.db import connections, models, router, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from . import context, metrics
from .ids import time7, uuid7
from .message import MAX_BYTES, Letter, Message, Unreadable, write
from .rows import Rows, Statement

CHANNEL = "outbox"  # the NOTIFY channel that wakes the relay of a database


class PostedOutsideTransaction(RuntimeError):
    """A message was posted outside `atomic(using=<the room's database>)`: it could be sent though its data is not."""


class TooLarge(ValueError):
    """The message is larger than a letter may be."""

    code = "too_large"


class OutgoingMessage(models.Model):
    """A row a letter: written with the data it tells of, stamped when the broker has confirmed it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    message_id = models.UUIDField(_("message id"), editable=False)
    type = models.CharField(_("type"), max_length=100)
    version = models.PositiveSmallIntegerField(_("schema version"), default=1)
    subject = models.CharField(_("subject"), max_length=64, blank=True)
    to = models.CharField(_("to"), max_length=40)
    data = models.JSONField(_("data"))
    correlation_id = models.CharField(_("correlation id"), max_length=64)
    causation_id = models.CharField(_("causation id"), max_length=64, null=True)  # noqa: DJ001
    traceparent = models.CharField(_("traceparent"), max_length=55, null=True)  # noqa: DJ001
    attempt = models.PositiveSmallIntegerField(_("attempt"), default=0)
    created_at = models.DateTimeField(_("created at"))
    due_at = models.DateTimeField(_("due at"))
    publish_attempts = models.PositiveIntegerField(_("publish attempts"), default=0)
    refusals = models.PositiveSmallIntegerField(_("refusals by the broker"), default=0)
    last_error = models.CharField(_("last error"), max_length=500, blank=True)
    published_at = models.DateTimeField(_("published at"), null=True)

    class Meta:
        verbose_name = _("outgoing message")
        verbose_name_plural = _("outgoing messages")
        indexes = [
            models.Index(fields=["due_at"], name="outgoing_unpublished", condition=models.Q(published_at__isnull=True)),
            models.Index(fields=["subject"], name="outgoing_by_subject"),
            models.Index(fields=["message_id"], name="outgoing_again", condition=models.Q(attempt__gt=0)),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.message_id}"

    @classmethod
    def database(cls) -> str:
        using = router.db_for_write(cls)
        if using not in connections or cls._meta.app_label == "outbox":
            raise LookupError(f"{cls.__name__} is no room's mailbox.")
        return using

    @classmethod
    def post(cls, *messages: Message, due_at: datetime | None = None) -> list[Self]:
        """
        Send these messages when, and only when, the transaction around this call commits; not before `due_at`.

        :raises PostedOutsideTransaction: if there is no transaction in this room's database
        """
        rows = cls.drafts(*messages, due_at=due_at)
        cls.send(rows)
        return rows

    @classmethod
    def drafts(cls, *messages: Message, due_at: datetime | None = None) -> list[Self]:
        """The rows of these messages, for `send`."""
        now = timezone.now()
        here = context.current()
        return [
            cls(
                id=(message_id := uuid7()),
                message_id=message_id,
                type=message.type,
                version=message.version,
                subject=message.subject,
                to=message.to,
                data=message.data,
                correlation_id=here.correlation_id,
                causation_id=here.causation_id,
                traceparent=here.traceparent,
                created_at=now,
                due_at=due_at or now,
            )
            for message in messages
        ]

    @classmethod
    def post_again(cls, letter: Letter, *, attempt: int, due_at: datetime, to: str | None = None) -> Self:
        """Send this letter once more, as the same message: to this room itself unless said otherwise."""
        row = cls(
            message_id=letter.id,
            type=letter.type,
            version=letter.schemaversion,
            subject=letter.subject,
            to=to or cls.database(),
            data=letter.data,
            correlation_id=letter.correlationid,
            causation_id=letter.causationid,
            traceparent=letter.traceparent,
            attempt=attempt,
            created_at=datetime.fromisoformat(letter.time),
            due_at=due_at,
        )
        cls.send([row])
        return row

    @classmethod
    def send(cls, drafts: list[Self], *, beside: Iterable[Statement] = ()) -> list[int]:
        """
        Send what these rows say, after what is run `beside` it in the same round trip; the rows that each touched.

        :raises PostedOutsideTransaction: if there is no transaction in this room's database
        """
        using = cls.database()
        connection = connections[using]
        if not connection.in_atomic_block:
            raise PostedOutsideTransaction(f"Post inside transaction.atomic(using={using!r}).")
        for row in drafts:
            if len(write(row.data)) > MAX_BYTES:
                raise TooLarge(f"{row.type} for {row.subject} is too large to send.")
        rows = Rows(using)
        statements = [*beside, *([rows.insert(*drafts)] if drafts else [])]
        touched = rows.run(*statements) if statements else []
        if all(hook[1] is not _WAKE.get(using) for hook in connection.run_on_commit):
            transaction.on_commit(_WAKE.setdefault(using, _Wake(using)), using=using, robust=True)
        return touched

    def letter(self) -> Letter:
        """
        The letter as it travels.

        # Note [The letter's due time]: it says before when no copy of the letter can have set out, and from it the
        # consumer reckons how long its memory must reach back. A row that was put off has lost its own, and an
        # unconfirmed copy may be on its way since: then it is the time when the row was written.
        """
        due = time7(self.id) if self.publish_attempts else self.due_at
        return Letter(
            id=str(self.message_id),
            source=f"/{self._state.db or self.database()}",
            type=self.type,
            subject=self.subject,
            time=self.created_at.isoformat(),
            schemaversion=self.version,
            correlationid=self.correlation_id,
            causationid=self.causation_id,
            traceparent=self.traceparent,
            attempt=self.attempt,
            due=due.isoformat() if due > self.created_at else None,
            data=self.data,
        )


class _Wake:
    """
    Wake the relay of a database after a commit.

    # Note [NOTIFY after the commit, not in it]: a transaction that notifies takes one lock for the whole server
    # while it commits, which serialises every commit. Sent on its own afterwards it costs a round trip and no
    # flush. It may be lost; the relay polls.
    """

    def __init__(self, using: str) -> None:
        self.using = using

    def __call__(self) -> None:
        with connections[self.using].cursor() as cursor:
            cursor.execute(f"NOTIFY {CHANNEL}")


_WAKE: dict[str, _Wake] = {}


class IncomingMessage(models.Model):
    """A message that had its effect here: committed with the effect, it makes every further copy do nothing."""

    message_id = models.UUIDField(_("message id"), primary_key=True, editable=False)
    type = models.CharField(_("type"), max_length=100)
    subject = models.CharField(_("subject"), max_length=64, blank=True)
    attempt = models.PositiveSmallIntegerField(_("attempt"), default=0)
    received_at = models.DateTimeField(_("received at"))
    handled_at = models.DateTimeField(_("handled at"))

    class Meta:
        verbose_name = _("incoming message")
        verbose_name_plural = _("incoming messages")
        indexes = [models.Index(fields=["subject"], name="incoming_by_subject")]

    def __str__(self) -> str:
        return f"{self.type} {self.message_id}"

    @classmethod
    def seen(cls, letter: Letter) -> bool:
        """Whether this letter has had its effect here."""
        look = Statement("SELECT FROM outbox_incomingmessage WHERE message_id = %s", [letter.id])
        return Rows(router.db_for_read(cls)).run(look) == [1]

    @classmethod
    def first_time(cls, letter: Letter, *, received_at: datetime) -> bool:
        """Note that this letter is being handled; false if it was before. Waits for a copy handled right now."""
        with connections[router.db_for_write(cls)].cursor() as cursor:
            cursor.execute(
                "INSERT INTO outbox_incomingmessage (message_id, type, subject, attempt, received_at, handled_at)"
                " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [letter.id, letter.type, letter.subject, letter.attempt, received_at, timezone.now()],
            )
            return cursor.rowcount == 1

    @classmethod
    def still_open(cls, subject: models.F | models.OuterRef) -> models.QuerySet[Any] | None:
        """
        What of this room is under way with this subject; its keys are kept as long as there is such a thing.

        A room's own proxy says what that is.
        """
        return None


class DeadLetter(models.Model):
    """A letter that could not be delivered or handled, with its whole story."""

    class Origin(models.TextChoices):
        RELAY = "relay", _("could not be published")
        CONSUMER = "consumer", _("could not be handled")
        BROKER = "broker", _("dead-lettered by the broker")

    class Status(models.TextChoices):
        DEAD = "dead", _("dead")
        REPLAYED = "replayed", _("replayed")
        DISCARDED = "discarded", _("discarded")

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.DEAD)
    origin = models.CharField(_("origin"), max_length=10, choices=Origin.choices)
    queue = models.CharField(_("queue"), max_length=100)
    message_id = models.UUIDField(_("message id"), null=True, db_index=True)
    type = models.CharField(_("type"), max_length=200, blank=True)
    subject = models.CharField(_("subject"), max_length=64, blank=True)
    reason = models.CharField(_("reason"), max_length=60)
    error = models.TextField(_("error"), blank=True)
    traceback = models.TextField(_("traceback"), blank=True)
    fingerprint = models.CharField(_("fingerprint"), max_length=16)
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    worker = models.CharField(_("worker"), max_length=200, blank=True)
    headers = models.JSONField(_("headers"), default=dict)
    body = models.BinaryField(_("body"))
    replays = models.PositiveIntegerField(_("replays"), default=0)
    died_at = models.DateTimeField(_("died at"))
    resolved_at = models.DateTimeField(_("resolved at"), null=True)

    class Meta:
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")
        indexes = [
            models.Index(fields=["status", "died_at"], name="dead_letter_by_age"),
            models.Index(fields=["subject"], name="dead_letter_by_subject"),
            models.Index(fields=["fingerprint", "id"], name="dead_letter_by_fingerprint"),
            models.Index(fields=["status", "id"], name="dead_letter_by_status"),
        ]
        constraints = [
            # However many copies of a message die, there is one thing to decide about it.
            models.UniqueConstraint(
                fields=["message_id"],
                condition=models.Q(status="dead", message_id__isnull=False),
                name="one_open_dead_letter_per_message",
            )
        ]

    def __str__(self) -> str:
        return f"{self.type or '?'} {self.message_id or self.id}: {self.reason}"

    def bury(self) -> bool:
        """Keep this dead letter, unless another copy of its message lies here; whether it was the first."""
        for name in ("type", "subject", "error", "traceback", "worker"):
            most = getattr(self._meta.get_field(name), "max_length", None)
            setattr(self, name, storable(getattr(self, name))[:most])
        self.headers = storable(self.headers)
        type(self)._base_manager.bulk_create([self], ignore_conflicts=True)
        kept = type(self)._base_manager.filter(pk=self.pk).exists()
        if kept:
            metrics.after_commit(router.db_for_write(type(self)), metrics.EVENTS_MOVED_TO_DLQ.inc)
        return kept

    def letter(self) -> Letter:
        """
        The letter that died, from its original bytes.

        :raises Unreadable: if they are no letter
        """
        try:
            said = json.loads(bytes(self.body))
        except (ValueError, RecursionError) as error:
            raise Unreadable("malformed", "The body is not JSON.") from error
        # What the broker dead-lettered is a whole task: its arguments come first.
        while isinstance(said, list) and said:
            said = said[0]
        return Letter.open(said)


def storable(value: Any) -> Any:
    """This value as PostgreSQL can keep it in a text or in JSON, whatever a stranger has put into it."""
    match value:
        case str():
            return value.replace("\0", "\N{SYMBOL FOR NULL}").encode(errors="replace").decode()
        case dict():
            return {storable(str(name)): storable(one) for name, one in value.items()}
        case list() | tuple():
            return [storable(one) for one in value]
        case None | bool() | int():
            return value
        case bytes():
            return storable(value.decode(errors="backslashreplace"))
        case _:
            return storable(str(value))


class DeadLetterAction(models.Model):
    """Who did what to a dead letter, and when. Never changed."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    dead_letter_id = models.UUIDField(db_index=True)
    verb = models.CharField(_("verb"), max_length=20)
    by = models.CharField(_("by"), max_length=150)
    at = models.DateTimeField(_("at"), default=timezone.now)
    detail = models.JSONField(_("detail"), default=dict)

    class Meta:
        verbose_name = _("dead letter action")
        verbose_name_plural = _("dead letter actions")

    def __str__(self) -> str:
        return f"{self.verb} by {self.by}"


def backoff(attempt: int, *, spread: float) -> timedelta:
    """How long to wait after this attempt (counted from 0) failed: 1, 2, 4, 8, 16 s and up to a quarter more."""
    return timedelta(seconds=2 ** min(attempt, 4) * (1 + spread / 4))


LAST_ATTEMPT = 5  # the first one and five more; then the letter is dead
ATTEMPTS = LAST_ATTEMPT + 1  # in a life; a replay begins another one, in which the count goes on


def replays(attempt: int) -> int:
    """How often a letter at this attempt has been replayed."""
    return attempt // ATTEMPTS


def last_attempt(attempt: int) -> int:
    """The attempt after which a letter at this attempt is dead."""
    return attempt - attempt % ATTEMPTS + LAST_ATTEMPT


def fingerprint(*parts: Any) -> str:
    """A short stable name for a kind of failure."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]
