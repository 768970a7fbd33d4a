"""Periodic work that services share."""

from typing import Any

from celery import shared_task
from django.apps import apps
from django.conf import settings
from django.db import router

from outbox import clock
from outbox.pacing import rounds
from outbox.sqlstates import skip_while_unavailable

BATCH = 1000  # rows deleted in one statement: no lock is held for long
SECONDS = 5.0  # for one call, while there is a backlog: half of the time between two of them


@shared_task(name="outbox.forget_answers")  # the name of a time when this task belonged to the outbox
@skip_while_unavailable
def forget_answers(service: str) -> None:
    """Delete the answers that a service keeps for idempotency keys which nobody will send again."""
    answers: Any = apps.get_model(service, "IdempotencyKey")  # a StoredAnswer
    before = clock.now(router.db_for_write(answers)) - settings.IDEMPOTENCY_RETENTION
    for _ in rounds(SECONDS):
        if answers.forget(before=before, limit=BATCH) < BATCH:
            return
