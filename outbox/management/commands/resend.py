"""manage.py resend: send again what receivers have not got, because a broker or a database has lost it."""

import json
from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from outbox import clock, conf, lost
from outbox.due_rows import BEGINNING
from outbox.lost import Sent
from outbox.management.arguments import duration, moment
from outbox.services import database_of, services_here


class Command(BaseCommand):
    help = (
        "Send again every message that was sent and that its receiver has neither handled nor as a dead letter: after"
        " the broker has lost messages, or a database was set back to an earlier moment. No message has its effect"
        " twice by it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--to",
            action="append",
            choices=services_here(),
            metavar="SERVICE",
            help="only to this one; may be repeated",
        )
        parser.add_argument(
            "--since",
            type=moment,
            metavar="TIME",
            help="only what was sent at this time or later: 2026-11-01 (midnight UTC), 2026-11-01T12:00+01:00; by"
            " default, all that outboxes still have",
        )
        parser.add_argument(
            "--grace",
            type=duration,
            default=timedelta(minutes=1),
            metavar="AGE",
            help="what was sent within this time is under way (1m); longer if messages wait in queues",
        )
        parser.add_argument(
            "--events",
            action="store_true",
            help="the events since TIME as well, all of them: after the broker has lost their stream or the queues of"
            " subscribers, who must drop what they know by its id",
        )
        parser.add_argument("--dry-run", action="store_true", help="only show what would be sent")
        parser.add_argument("--json", action="store_true", help="write one JSON object")

    def handle(
        self,
        *args: Any,
        to: list[str] | None,
        since: datetime | None,
        grace: timedelta,
        events: bool,
        dry_run: bool,
        json: bool,
        **options: Any,
    ) -> None:
        services = services_here()
        now = clock.now(database_of(services[0]))
        if events and since is None:
            raise CommandError("Say since when events are to be sent again: --since TIME.")
        if since is not None and since > now:
            raise CommandError(f"{since.isoformat()} is in the future.")
        if since is not None and since < now - conf.OUTBOX_RETENTION:
            raise CommandError(
                f"Outboxes keep what was sent for {conf.OUTBOX_RETENTION.days} days (OUTBOX_RETENTION_DAYS), so nobody"
                f" can tell what was lost before {(now - conf.OUTBOX_RETENTION).isoformat(timespec='seconds')}."
            )
        begin, end = since or BEGINNING, now - grace
        found = list(lost.find(services, to or services, since=begin, until=end))
        if events:
            found += [event for service in services for event in lost.events(service, since=begin, until=end)]
        self._report(found, as_json=json, dry_run=dry_run)
        if not dry_run:
            _send(found)

    def _report(self, found: list[Sent], *, as_json: bool, dry_run: bool) -> None:
        counts = Counter((one.sender, one.receiver, one.type) for one in found)
        if as_json:
            names = ("from", "to", "type")
            lines = [dict(zip(names, key, strict=True)) | {"messages": n} for key, n in sorted(counts.items())]
            self.stdout.write(json.dumps({"dry_run": dry_run, "messages": len(found), "of": lines}))
            return
        for (sender, receiver, kind), number in sorted(counts.items()):
            self.stdout.write(f"{number:>8}  {sender} to {receiver}: {kind}")
        verb = "would be sent again" if dry_run else "will be sent again"
        self.stdout.write(f"{len(found)} {verb}" if found else "Nothing is lost.")


def _send(found: Iterable[Sent]) -> None:
    rows: dict[str, list[UUID]] = defaultdict(list)
    for one in found:
        rows[one.sender].append(one.row_id)
    for service, row_ids in rows.items():
        lost.send_again(service, row_ids)
