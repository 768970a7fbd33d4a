"""
The mailbox of a service: what it sends, what it has seen, and what could not be delivered.

The tables live in every service's database. A service reaches its own through proxies that it declares
(`payments.models.Outgoing`), so that no call site can forget the database.
"""

from datetime import datetime
from typing import Any, Self

from django.db import connections, models, router, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from . import context
from .dead_letter_models import DeadLetter as DeadLetter
from .dead_letter_models import DeadLetterAction as DeadLetterAction
from .ids import time7, uuid7
from .message import MAX_BYTES, Letter, Message, write
from .store import Batch, Rows, Statement

CHANNEL = "outbox"  # the NOTIFY channel that wakes the relay of a database


class PostedOutsideTransaction(RuntimeError):
    """A message was posted outside `atomic(using=<the service's database>)`: it could be sent though its data is not."""


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
            raise LookupError(f"{cls.__name__} is no service's mailbox.")
        return using

    @classmethod
    def post(cls, *messages: Message, due_at: datetime | None = None, batch: Batch | None = None) -> list[Self]:
        """
        Send these messages when, and only when, the transaction around this call commits; not before `due_at`.

        With a `batch`, their rows are stored when it runs; returned are the rows.

        :raises PostedOutsideTransaction: if there is no transaction in this service's database
        """
        rows = cls.drafts(*messages, due_at=due_at)
        cls.send(rows, batch=batch)
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
        """Send this letter once more, as the same message: to this service itself unless said otherwise."""
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
    def send(cls, drafts: list[Self], *, batch: Batch | None = None) -> None:
        """
        Store these rows, so that what they say is sent; with a `batch`, when it runs.

        :raises PostedOutsideTransaction: if there is no transaction in this service's database
        """
        using = cls.database()
        connection = connections[using]
        if not connection.in_atomic_block:
            raise PostedOutsideTransaction(f"Post inside transaction.atomic(using={using!r}).")
        for row in drafts:
            if len(write(row.data)) > MAX_BYTES:
                raise TooLarge(f"{row.type} for {row.subject} is too large to send.")
        if not drafts:
            return
        if batch is not None:
            batch.insert(*drafts)
        else:
            rows = Rows(using)
            rows.run(rows.insert(*drafts))
        if all(hook[1] is not _WAKE.get(using) for hook in connection.run_on_commit):
            transaction.on_commit(_WAKE.setdefault(using, _Wake(using)), using=using, robust=True)

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
    def open_work(cls, subject: models.F | models.OuterRef) -> models.QuerySet[Any] | None:
        """
        What of this service is under way with this subject; its keys are kept as long as there is such a thing.

        A service's own proxy says what that is.
        """
        return None
