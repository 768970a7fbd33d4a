"""Messages that could not be sent or handled, and what was done about them."""

import hashlib
import logging
from collections.abc import Sequence
from typing import Any, Self

from django.db import models, router
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from . import clock, metrics, strict_json
from .attempts import ATTEMPTS, replays
from .envelope import Envelope
from .errors import Unreadable
from .ids import uuid7

logger = logging.getLogger(__name__)

TYPE_LENGTH = 200
FORGOTTEN = "past_dedupe_horizon"  # the reason of one that may have been handled: its inbox row may have been purged
MAX_DEPTH = 20  # of the headers that are kept


class DeadLetter(models.Model):
    """A message that could not be sent or handled, with all that is known about the failure."""

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
    type = models.CharField(_("type"), max_length=TYPE_LENGTH, blank=True)
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

    @classmethod
    def of(
        cls, envelope: Envelope | None, *, reason: str, type: str = "", alike: Sequence[str] = (), **more: Any
    ) -> Self:
        """
        Return the dead letter of a message, not stored yet.

        :param envelope: None if the body could not be read
        :param type: what is known of the message's type if there is no envelope
        :param alike: what makes two failures the same, besides the type and the reason
        :param more: further fields: the origin, the queue, the error, the body …
        """
        kind = envelope.type if envelope is not None else type
        now = clock.now(router.db_for_write(cls))
        fields: dict[str, Any] = {"type": kind, "attempts": 1, "reason": reason, "died_at": now}
        if envelope is not None:
            fields |= {"message_id": envelope.id, "subject": envelope.subject, "replays": replays(envelope.attempt)}
            fields["attempts"] = envelope.attempt % ATTEMPTS + 1
        return cls(**fields | {"fingerprint": fingerprint(kind, reason, *alike)} | more)

    def record(self) -> bool:
        """Store this dead letter, unless its message has an open one already; return whether it was stored."""
        for name in ("type", "subject", "error", "traceback", "worker"):
            limit = getattr(self._meta.get_field(name), "max_length", None)
            setattr(self, name, storable(getattr(self, name))[:limit])
        self.headers = storable(self.headers)
        type(self)._base_manager.bulk_create([self], ignore_conflicts=True)
        is_new = type(self)._base_manager.filter(pk=self.pk).exists()
        if is_new:
            logger.error("%s for %s is a dead letter: %s: %s", self.type or "?", self.queue, self.reason, self.error)
            metrics.after_commit(router.db_for_write(type(self)), metrics.EVENTS_MOVED_TO_DLQ.inc)
        return is_new

    def envelope(self) -> Envelope:
        """
        Return the envelope of the message, from its original bytes.

        :raises Unreadable: if they are none, or of another type than this dead letter
        """
        try:
            raw = strict_json.parse(bytes(self.body))
        except strict_json.TooDeep as error:
            raise Unreadable("malformed", "The message is nested too deeply.") from error
        except ValueError as error:
            raise Unreadable("malformed", "The body is not JSON.") from error
        # What the broker dead-lettered is a whole Celery task: its arguments come first.
        if isinstance(raw, list) and raw and isinstance(raw[0], list):
            if len(raw[0]) > 1:
                raise Unreadable("malformed", "It holds more messages than a batch may.")
            raw = raw[0]
        while isinstance(raw, list) and raw:
            raw = raw[0]
        envelope = Envelope.parse(raw)
        if self.type and envelope.type[:TYPE_LENGTH] != self.type:
            raise Unreadable("forged_type", f"It says that it is {envelope.type!r}, which its sender may not send.")
        return envelope


class DeadLetterAction(models.Model):
    """Who did what with a dead letter, and when. Append-only."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    dead_letter_id = models.UUIDField(db_index=True)
    verb = models.CharField(_("action"), max_length=20)
    by = models.CharField(_("by"), max_length=150)
    at = models.DateTimeField(_("at"), default=timezone.now)
    detail = models.JSONField(_("detail"), default=dict)

    class Meta:
        verbose_name = _("dead letter action")
        verbose_name_plural = _("dead letter actions")

    def __str__(self) -> str:
        return f"{self.verb} by {self.by}"


def storable(value: Any, *, depth: int = 0) -> Any:
    """Return this value as PostgreSQL can store it in a text or in JSON, whatever it contains."""
    match value:
        case str():
            return value.replace("\0", "\N{SYMBOL FOR NULL}").encode(errors="replace").decode()
        case dict() | list() | tuple() if depth >= MAX_DEPTH:
            return "…"
        case dict():
            return {storable(str(name)): storable(one, depth=depth + 1) for name, one in value.items()}
        case list() | tuple():
            return [storable(one, depth=depth + 1) for one in value]
        case None | bool() | int():
            return value
        case bytes():
            return storable(value.decode(errors="backslashreplace"))
        case _:
            return storable(str(value))


def fingerprint(*parts: Any) -> str:
    """Return a short stable name for a kind of failure."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]
