"""How PostgreSQL looks for due rows after an outage, of which its statistics do not know yet."""

from datetime import timedelta
from functools import partial
from typing import Any
from unittest.mock import patch

from django.db import connections, transaction
from django.utils import timezone

from outbox import due_rows
from outbox.due_rows import DueRows
from outbox.store import Rows

NUMBER = 2000
FILL = """
INSERT INTO outbox_outgoingmessage (id, message_id, type, version, subject, "to", data, correlation_id, attempt,
    created_at, due_at, publish_attempts, refusals, last_error, published_at)
SELECT id, id, 'tests.count', 1, '', 'payments', '{}', '', 0, now(), now() - i * interval '1 ms', 0, 0, '', %s
FROM (SELECT i, (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0') || '7'
                 || substr(md5(random()::text), 1, 3) || '8' || substr(md5(random()::text), 1, 15))::uuid AS id
      FROM generate_series(1, %s) AS i) AS numbered
"""


def fill_after_analyze(service: str) -> None:
    """Store many published rows, which the statistics know, and many due ones, which they do not."""
    with connections[service].cursor() as cursor:
        cursor.execute(FILL, [timezone.now(), NUMBER])
        cursor.execute("ANALYZE outbox_outgoingmessage")
        cursor.execute(FILL, [None, NUMBER])


def plans_of(due: DueRows) -> list[str]:
    """Look for due rows, of which there are many, in each way; return how PostgreSQL plans these looks."""
    plans: list[str] = []
    fetch = Rows.fetch

    def note(self: Rows, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        plans.append("\n".join(line for (line,) in fetch(self, f"EXPLAIN {sql}", *parameters)))
        return fetch(self, sql, *parameters)

    with patch.object(Rows, "fetch", note), patch.object(due_rows, "SLOWEST", timedelta(minutes=10)):
        due.next_due()
        for claim in (due.claim, partial(due.claim_of, ["tests.count"])):
            with transaction.atomic(using=due.service):
                rows = claim(now=timezone.now(), limit=200)
            assert len(rows) == 200
            assert rows == sorted(rows, key=lambda row: (row.due_at, row.pk))
    assert len(plans) == 3
    return plans
