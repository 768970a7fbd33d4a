"""Letters that could not be delivered or handled, and what was done about them."""

import hashlib
import json
from typing import Any

from django.db import models, router
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from . import metrics
from .ids import uuid7
from .message import Letter, Unreadable


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


def fingerprint(*parts: Any) -> str:
    """A short stable name for a kind of failure."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]
