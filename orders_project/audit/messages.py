"""Rules about messages: each one that was sent has been handled, and the other way round."""

from collections.abc import Iterator

from django.conf import settings

from common.audit import Finding, Rule, Scope, rows
from orders.messages import Overdue
from outbox import forgotten, lost
from outbox.due_rows import DUE_SINCE, MAY_BE_LATE
from outbox.ids import floor7


def seen(scope: Scope) -> Iterator[Finding]:
    yield from sent_but_not_seen(scope)
    yield from seen_but_not_sent(scope)


def sent_but_not_seen(scope: Scope) -> Iterator[Finding]:
    services, since = settings.SERVICES, floor7(scope.since)
    for one in lost.find(services, services, until=scope.settled, after=since):
        to = one.receiver
        yield Finding(
            "messages",
            str(one.message_id),
            f"{one.type} for {one.subject} was sent by {one.sender} to {to}, which has not handled it",
            f"see that a worker of {to} is running and its queue is empty, then run manage.py resend --to {to}",
        )


def seen_but_not_sent(scope: Scope) -> Iterator[Finding]:
    """Check messages that were handled. Their ids contain the time when they were posted, so both are in the window."""
    services = settings.SERVICES
    for one in forgotten.find(services, services, since=scope.since, until=scope.settled):
        yield Finding(
            "messages",
            str(one.message_id),
            f"{one.receiver} has handled it, and no service has sent it",
            "if its sender was set back to an earlier moment, run manage.py recover; else find out who can write to the"
            " broker: search the logs for its id to see its effect",
        )


UNSENT = f"""
SELECT message_id, type, subject, "to", {DUE_SINCE}, last_error FROM outbox_outgoingmessage
WHERE {MAY_BE_LATE} < %s ORDER BY due_at LIMIT 1000
"""  # noqa: S608 - conditions of ours


def unsent(scope: Scope) -> Iterator[Finding]:
    for service in settings.SERVICES:
        for message_id, kind, subject, to, due_since, error in rows(service, UNSENT, scope.settled):
            detail = f"{kind} for {subject} from {service} to {to} has been due since {due_since.isoformat()}"
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
            if published_at is None or lost.unhandled(to, [message_id]):
                found.add(subject)
    return found


RULES = (
    Rule("messages", "every message sent was handled once, and none was handled that no service sent", seen),
    Rule("unsent", "no message is unsent after it was due", unsent),
)
