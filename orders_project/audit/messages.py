"""Rules about messages: each one that was sent has been handled, and the other way round."""

from collections.abc import Iterator
from uuid import UUID

from django.conf import settings

from common.audit import Finding, Rule, Scope, batches, rows
from orders.messages import Overdue
from outbox.ids import floor7

BATCH = 20_000

SENT = """
SELECT id, message_id, "to" FROM outbox_outgoingmessage
WHERE published_at < %s AND "to" = ANY(%s) AND id > %s ORDER BY id LIMIT %s
"""
SEEN = """
SELECT message_id FROM outbox_incomingmessage WHERE handled_at < %s AND message_id > %s ORDER BY message_id LIMIT %s
"""
NOT_IN_INBOX = """
SELECT asked FROM unnest(%s::uuid[]) AS asked
WHERE NOT EXISTS (SELECT 1 FROM outbox_incomingmessage seen WHERE seen.message_id = asked)
  AND NOT EXISTS (SELECT 1 FROM outbox_deadletter dead WHERE dead.message_id = asked)
"""
POSTED = "SELECT id FROM outbox_outgoingmessage WHERE id = ANY(%s)"  # a message has the id of the row that posted it
ABOUT = "SELECT type, subject FROM outbox_outgoingmessage WHERE id = %s"
WAITING_FOR_RETRY = """
SELECT message_id FROM outbox_outgoingmessage WHERE published_at IS NULL AND message_id = ANY(%s)
"""


def unseen(service: str, message_ids: list[UUID]) -> set[UUID]:
    """Those of these messages that the service has neither handled nor kept as dead letters."""
    return {one for (one,) in rows(service, NOT_IN_INBOX, message_ids)}


def seen(scope: Scope) -> Iterator[Finding]:
    yield from sent_but_not_seen(scope)
    yield from seen_but_not_sent(scope)


def sent_but_not_seen(scope: Scope) -> Iterator[Finding]:
    for service in settings.SERVICES:
        start = floor7(scope.since)
        for page in batches(service, SENT, scope.settled, list(settings.SERVICES), start=start, size=BATCH):
            for to in settings.SERVICES:
                sent = {message_id: row_id for row_id, message_id, target in page if target == to}
                lost = unseen(to, list(sent)) if sent else set()
                if lost:  # a message that failed waits in the outbox of the service that failed, for its next attempt
                    lost -= {one for (one,) in rows(to, WAITING_FOR_RETRY, list(lost))}
                for message_id in sorted(lost):
                    ((kind, subject),) = rows(service, ABOUT, sent[message_id])
                    yield Finding(
                        "messages",
                        str(message_id),
                        f"{kind} for {subject} was sent by {service} to {to}, which has not handled it",
                        f"see that a worker of {to} is running and its queue is empty, then send the message again",
                    )


def seen_but_not_sent(scope: Scope) -> Iterator[Finding]:
    """Check messages that were handled. Their ids contain the time when they were posted, so both are in the window."""
    for service in settings.SERVICES:
        for page in batches(service, SEEN, scope.settled, start=floor7(scope.since), size=BATCH):
            unknown = {message_id for (message_id,) in page}
            for origin in settings.SERVICES:
                unknown -= {one for (one,) in rows(origin, POSTED, list(unknown))}
            for message_id in sorted(unknown):
                yield Finding(
                    "messages",
                    str(message_id),
                    f"{service} has handled it, and no service has sent it",
                    "find out who can write to the broker; search the logs for its id to see its effect",
                )


UNSENT = """
SELECT message_id, type, subject, "to", due_at, last_error FROM outbox_outgoingmessage
WHERE published_at IS NULL AND due_at < %s ORDER BY due_at LIMIT 1000
"""


def unsent(scope: Scope) -> Iterator[Finding]:
    for service in settings.SERVICES:
        for message_id, kind, subject, to, due_at, error in rows(service, UNSENT, scope.settled):
            detail = f"{kind} for {subject} from {service} to {to} was due at {due_at.isoformat()}"
            yield Finding(
                "unsent",
                str(message_id),
                f"{detail}: {error}" if error else detail,
                f"see that the relay of {service} is running and the broker answers",
            )


UNDER_WAY = """
SELECT subject, message_id, "to", published_at FROM outbox_outgoingmessage
WHERE subject = ANY(%s) AND "to" = ANY(%s) AND (published_at IS NOT NULL OR type <> %s)
"""


def under_way(order_ids: set[str]) -> set[str]:
    """Those of these orders that a message is under way about; timers do not count."""
    found = set()
    for service in settings.SERVICES:
        for subject, message_id, to, published_at in rows(
            service, UNDER_WAY, sorted(order_ids), list(settings.SERVICES), Overdue.name
        ):
            if published_at is None or unseen(to, [message_id]):
                found.add(subject)
    return found


RULES = (
    Rule("messages", "every message sent was handled once, and none was handled that no service sent", seen),
    Rule("unsent", "no message is unsent after it was due", unsent),
)
