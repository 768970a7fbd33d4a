"""
The outbox and the inbox of a service: what it sends and what it has handled.

The tables are in every service's database. A service uses its own through proxies that it declares
(`shop.models.Outgoing`), so that no call can forget the database.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from django.db import connections, models, router
from django.utils.translation import gettext_lazy as _

from . import clock, conf, context, strict_json
from .dead_letter_models import FORGOTTEN as FORGOTTEN
from .dead_letter_models import DeadLetter as DeadLetter
from .dead_letter_models import DeadLetterAction as DeadLetterAction
from .deliveries import StartedMessage as StartedMessage
from .envelope import Envelope
from .errors import PostedOutsideTransaction, TooLarge
from .ids import time7, uuid7
from .message import EVENTS, MAX_BYTES, Message
from .notifications import WakeUp
from .store import Batch, Rows

# Note [What was never sent]: no relay can have sent a row that was never due. A minute is more than the clocks of two
# servers differ by; what was put off may have been sent before.
NEVER_SENT = "published_at IS NULL AND first_due_at IS NULL AND due_at > statement_timestamp() + interval '1 minute'"
UNSAMPLED = ""  # in place of the traceparent that follows from the correlation id


class OutgoingMessage(models.Model):
    """A message to be sent: stored with the data that it is about, stamped when the broker has confirmed it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    message_id = models.UUIDField(_("message id"), editable=False)
    type = models.CharField(_("type"), max_length=100)
    version = models.PositiveSmallIntegerField(_("schema version"), default=1)
    compatible_from = models.PositiveSmallIntegerField(_("compatible from version"), null=True)
    subject = models.CharField(_("subject"), max_length=64, blank=True)
    to = models.CharField(_("to"), max_length=40)
    data = models.JSONField(_("data"))
    correlation_id = models.CharField(_("correlation id"), max_length=64)
    causation_id = models.CharField(_("causation id"), max_length=64, null=True)  # noqa: DJ001
    traceparent = models.CharField(_("traceparent"), max_length=55, null=True)  # noqa: DJ001
    attempt = models.PositiveSmallIntegerField(_("attempt"), default=0)
    created_at = models.DateTimeField(_("created at"))
    due_at = models.DateTimeField(_("due at"))
    first_due_at = models.DateTimeField(_("first due at"), null=True, editable=False)  # if `due_at` is a later time
    waiting_since = models.DateTimeField(_("waiting since"), null=True)  # for a release that knows it: see unknown.py
    publish_attempts = models.PositiveIntegerField(_("publish attempts"), default=0)
    refusals = models.PositiveSmallIntegerField(_("refusals by the broker"), default=0)
    last_error = models.CharField(_("last error"), max_length=500, blank=True)
    published_at = models.DateTimeField(_("published at"), null=True)
    due_since: datetime  # however often it was put off; of rows that were read with `DUE_SINCE`

    class Meta:
        verbose_name = _("outgoing message")
        verbose_name_plural = _("outgoing messages")
        indexes = [
            models.Index(fields=["due_at", "id"], name="outgoing_due", condition=models.Q(published_at__isnull=True)),
            models.Index(fields=["subject"], name="outgoing_by_subject"),
            models.Index(fields=["message_id"], name="outgoing_again", condition=models.Q(attempt__gt=0)),
            models.Index(
                fields=["waiting_since"],
                name="outgoing_waiting",
                condition=models.Q(published_at__isnull=True, waiting_since__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.message_id}"

    @classmethod
    def database(cls) -> str:
        """
        Return the alias of the service's database.

        :raises LookupError: if this is not a proxy of a service
        """
        using = router.db_for_write(cls)
        if using not in connections or cls._meta.app_label == "outbox":
            raise LookupError(f"{cls.__name__} is not the outbox of a service.")
        return using

    @classmethod
    def post(cls, *messages: Message, due_at: datetime | None = None, batch: Batch | None = None) -> list[Self]:
        """
        Send these messages when, and only when, the transaction around this call commits; not before `due_at`.

        Returns their rows, which are stored at once, or with a `batch` when that runs.

        :raises PostedOutsideTransaction: if there is no transaction in this service's database
        :raises TooLarge: if the data of one has more than `MAX_BYTES`
        """
        now = clock.now(cls.database())
        here = context.current()
        rows = [
            cls(
                id=(message_id := uuid7()),
                message_id=message_id,
                type=message.type,
                version=message.version,
                compatible_from=message.compatible_from if message.compatible_from < message.version else None,
                subject=message.subject,
                to=message.to,
                data=message.data,
                correlation_id=here.correlation_id,
                causation_id=here.causation_id,
                traceparent=_kept_trace(here.traceparent, here.correlation_id),
                created_at=now,
                due_at=due_at or now,
            )
            for message in messages
        ]
        replies = {row.type for row in rows if row.to != EVENTS} if here.causation_id and due_at is None else set()
        cls._store(rows, batch, replies=replies)
        return rows

    @classmethod
    def withdraw(cls, message_id: UUID, *, batch: Batch) -> None:
        """Do not send a message that was posted for later, unless it can have been sent already."""
        batch.delete(cls, message_id, where=NEVER_SENT)

    @classmethod
    def post_again(
        cls,
        envelope: Envelope,
        *,
        attempt: int,
        due_at: datetime,
        to: str | None = None,
        waiting_since: datetime | None = None,
    ) -> Self:
        """Send this message once more, as the same one: to this service itself unless `to` is given."""
        row = cls.of(
            envelope,
            to=to or cls._meta.app_label,
            attempt=attempt,
            due_at=due_at,
            waiting_since=waiting_since,
            first_due_at=envelope.sent_at,
        )
        cls._store([row])
        return row

    @classmethod
    def of(cls, envelope: Envelope, **more: Any) -> Self:
        """Return a row, which is not stored, of a message that has travelled, with these further fields."""
        return cls(
            message_id=UUID(envelope.id),
            type=envelope.type,
            version=envelope.schemaversion,
            compatible_from=envelope.compatiblefrom,
            subject=envelope.subject,
            data=envelope.data,
            correlation_id=envelope.correlationid,
            causation_id=envelope.causationid,
            traceparent=_kept_trace(envelope.traceparent, envelope.correlationid),
            created_at=datetime.fromisoformat(envelope.time),
            **more,
        )

    @classmethod
    def _store(cls, rows: list[Self], batch: Batch | None = None, *, replies: Collection[str] = ()) -> None:
        using = cls.database()
        if not connections[using].in_atomic_block:
            raise PostedOutsideTransaction(f"Post inside transaction.atomic(using={using!r}).")
        for row in rows:
            if len(strict_json.write(row.data)) > MAX_BYTES:
                raise TooLarge(f"{row.type} for {row.subject} is too large to send.")
        if not rows:
            return
        if batch is not None:
            batch.insert(*rows)
        else:
            with Rows(using).batch() as alone:
                alone.insert(*rows)
        WakeUp.after_commit(using, replies)

    def postpone(self, to: datetime, *, why: str) -> None:
        """Make it due later, after an attempt to publish it. Call save() or the like."""
        self.first_due_at = self.sent_since()
        self.due_at = to
        self.publish_attempts += 1
        self.last_error = why[:500]

    def sent_since(self) -> datetime:
        """Return the earliest time at which a copy of the message can have been sent: its first due time."""
        # Without a first due time, a row that was put off is one of an earlier release.
        return self.first_due_at or (time7(self.id) if self.publish_attempts else self.due_at)

    def envelope(self) -> Envelope:
        """
        Return the envelope in which the message travels.

        # Note [The due time of an envelope]: no copy of the message can have been sent before it, and from it the
        # consumer reckons how long its memory must reach back. So it is the first due time that the message ever had,
        # however often it was put off, tried again or replayed.
        """
        due, is_unsampled = self.sent_since(), self.traceparent == UNSAMPLED
        return Envelope(
            id=str(self.message_id),
            source=f"/{self._meta.app_label}",
            type=self.type,
            subject=self.subject,
            time=self.created_at.isoformat(),
            schemaversion=self.version,
            compatiblefrom=self.compatible_from,
            correlationid=self.correlation_id,
            causationid=self.causation_id,
            traceparent=context.unsampled_trace(self.correlation_id) if is_unsampled else self.traceparent,
            attempt=self.attempt,
            due=due.isoformat() if due > self.created_at else None,
            waitingsince=self.waiting_since.isoformat() if self.waiting_since else None,
            sequence=self._sequence(),
            data=self.data,
        )

    def _sequence(self) -> str | None:
        """
        Return the place of an event among those of its subject: digits of one length, so that texts compare as numbers.

        # Note [A sequence for each subject]: one number for all events would have to follow the order of commits, and
        # so let only one transaction at a time commit. Nobody needs it: events of different subjects have no order.
        """
        number = self.data.get(conf.OUTBOX_SEQUENCE_FIELD) if self.to == EVENTS else None
        return f"{number:010}" if isinstance(number, int) else None


def _kept_trace(traceparent: str | None, correlation_id: str) -> str | None:
    """Return what a row keeps of a traceparent; relays of the release before need all of it."""
    follows = traceparent == context.unsampled_trace(correlation_id) and not conf.OUTBOX_WITHHOLDS
    return UNSAMPLED if follows else traceparent


class IncomingMessage(models.Model):
    """A message that had its effect here: stored in the same commit, so that every further copy does nothing."""

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
    def seen(cls, envelope: Envelope) -> bool:
        """Whether this message has had its effect here."""
        return bool(cls.seen_of([envelope]))

    @classmethod
    def record(cls, envelope: Envelope, *, received_at: datetime) -> bool:
        """
        Store that this message is being handled; return whether it is the first time.

        Waits for the end of a transaction that is handling a copy of it.
        """
        return bool(cls.record_all([envelope], received_at=received_at))

    @classmethod
    def record_all(cls, envelopes: Sequence[Envelope], *, received_at: datetime) -> set[str]:
        """Store that these messages are being handled; return the ids of those for which it is the first time."""
        using = router.db_for_write(cls)
        handled_at = clock.now(using)
        rows = [
            cls(
                message_id=envelope.id,
                type=envelope.type,
                subject=envelope.subject,
                attempt=envelope.attempt,
                received_at=received_at,
                handled_at=handled_at,
            )
            for envelope in sorted(envelopes, key=lambda one: one.id)  # as everybody does: no deadlock
        ]
        spelled = {UUID(envelope.id): envelope.id for envelope in envelopes}
        return {spelled[key] for key in Rows(using).insert_new(*rows)}

    @classmethod
    def seen_of(cls, envelopes: Sequence[Envelope]) -> frozenset[str]:
        """Return the ids of those of these messages that have had their effect here."""
        ids = [envelope.id for envelope in envelopes]
        seen = Rows(router.db_for_read(cls)).select(cls, "WHERE message_id = ANY(%s::uuid[])", ids)
        keys = {row.message_id for row in seen}
        return frozenset(one for one in ids if UUID(one) in keys)

    @classmethod
    def open_work(cls, subject: models.F | models.OuterRef) -> models.QuerySet[Any] | None:
        """
        Return what this service still has to do about this subject, whose inbox rows are kept so long; None: nothing.

        The proxy of a service overrides this.
        """
        return None
