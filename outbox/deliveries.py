"""
Which messages killed their worker, and which were only in its keeping when it died.

# Note [Who is to blame]: a worker that dies returns all the messages that it held to the queue, most of them never
# begun. The broker counts them alike, so its count accuses nobody. What counts is a start: before the handler of a
# message runs that may have been begun before (it was delivered before, or is a retry), a row says so in a transaction
# of its own, and goes in the transaction that ends the attempt. Whoever finds the row of an earlier delivery knows that
# its worker died while handling it: that was a failed attempt. A message that arrives for the first time costs nothing.
"""

from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID, uuid4

from django.db import models, transaction
from django.utils.translation import gettext_lazy as _

from . import clock
from .envelope import Envelope
from .services import database_of
from .store import Rows, Statement


class WorkerLost(Exception):
    """Handling a message was begun and never ended."""


class StartedMessage(models.Model):
    """That an attempt at a message was begun, and by which delivery."""

    message_id = models.UUIDField(_("message id"), primary_key=True, editable=False)
    attempt = models.PositiveSmallIntegerField(_("attempt"))
    delivery = models.UUIDField(editable=False)
    worker = models.CharField(_("worker"), max_length=200, blank=True)
    started_at = models.DateTimeField(_("started at"))

    class Meta:
        verbose_name = _("started message")
        verbose_name_plural = _("started messages")

    def __str__(self) -> str:
        return f"{self.message_id} at {self.worker}"

    @classmethod
    def begin(cls, rows: Rows, envelope: Envelope, *, delivery: UUID, worker: str) -> Self | None:
        """
        Store that this delivery begins an attempt; return the row of an earlier delivery that began the same one.

        Commit it before the handler runs.
        """
        row = cls(
            message_id=envelope.id,
            attempt=envelope.attempt,
            delivery=delivery,
            worker=worker[:200],
            started_at=clock.now(rows.using),
        )
        table = cls._meta.db_table
        insert = rows.insert(row)
        sql = (
            f"{insert.sql} ON CONFLICT (message_id) DO UPDATE SET attempt = excluded.attempt,"
            " delivery = excluded.delivery, worker = excluded.worker, started_at = excluded.started_at"
            f" WHERE {table}.attempt <> excluded.attempt OR {table}.delivery = excluded.delivery"
        )
        return None if rows.run(Statement(sql, insert.parameters)) == [1] else cls.of(rows, envelope)

    @classmethod
    def of(cls, rows: Rows, envelope: Envelope) -> Self | None:
        """Return the row that says that this attempt was begun, if there is one."""
        return rows.first(cls, "WHERE message_id = %s AND attempt = %s", envelope.id, envelope.attempt)

    @classmethod
    def end(cls, rows: Rows, envelope: Envelope) -> None:
        """Delete the row: call it in the transaction that ends the attempt."""
        rows.run(rows.delete_all(cls, [envelope.id]))


@dataclass
class Delivery:
    """A message as it came to a worker of a service."""

    service: str
    raw: object
    headers: dict[str, Any]
    worker: str
    id: UUID = field(default_factory=uuid4)
    has_start: bool = False  # whether a row says that its attempt has begun
    answer: tuple[Any, ...] = ()  # of what is called before its handler: once, however long the database is away then

    @property
    def rows(self) -> Rows:
        return Rows(database_of(self.service))

    @property
    def is_repeated(self) -> bool:
        """Whether the broker has delivered this message before."""
        broker = self.headers.get("delivery_info")
        told = broker.get("redelivered") if isinstance(broker, dict) else False
        return bool(told) or bool(self.headers.get("x-delivery-count"))

    def begin(self, envelope: Envelope) -> None:
        """
        Note that the attempt begins, if one may have begun before.

        :raises WorkerLost: if it has, and its worker is gone
        """
        if not (envelope.attempt or self.is_repeated):
            return
        with transaction.atomic(using=self.rows.using):
            earlier = StartedMessage.begin(self.rows, envelope, delivery=self.id, worker=self.worker)
        self.has_start = True
        if earlier is not None and self.is_repeated:
            self.worker = earlier.worker
            raise WorkerLost(f"Handling it was begun at {earlier.started_at:%H:%M:%S} UTC, and its worker was lost.")

    def end(self, envelope: Envelope) -> None:
        """Note that the attempt has ended: in the transaction that ends it."""
        if self.has_start:
            StartedMessage.end(self.rows, envelope)
