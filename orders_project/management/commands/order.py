"""manage.py order: the story of one order."""

import json
from argparse import ArgumentParser
from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder
from django.utils import timezone

from orders.models import Order
from orders_project.backoffice import timeline
from orders_project.backoffice.timeline import Moment, Timeline

INDENT_AT_MOST = 8


class Command(BaseCommand):
    help = "Tell the story of one order over all services: what led to what, where time went, why it waits."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("order_id", metavar="ID")
        parser.add_argument("--json", action="store_true", help="write JSON")

    def handle(self, *args: Any, order_id: str, **options: Any) -> None:
        now = timezone.now()
        try:
            found = timeline.of(order_id, now=now)
        except Order.DoesNotExist:
            raise CommandError(f"There is no order {order_id}.", returncode=4) from None
        if options["json"]:
            self.stdout.write(json.dumps(asdict(found), cls=DjangoJSONEncoder, indent=2))
            return
        self._tell(found, now=now)

    def _tell(self, found: Timeline, *, now: datetime) -> None:
        because = f" ({found.fail_reason})" if found.fail_reason else ""
        began = found.moments[0].at
        self.stdout.write(self.style.MIGRATE_HEADING(f"Order {found.order_id}: {found.status}{because}"))
        self.stdout.write(f"since {began:%Y-%m-%d %H:%M:%S} UTC\n\n")
        for moment in found.moments:
            self.stdout.write(self._line(moment, began=began))
        if found.waiting is None:
            return
        waiting = found.waiting
        self.stdout.write(f"\nIt has waited {_duration((now - waiting.since).total_seconds())}:")
        for reason in waiting.reasons:
            self.stdout.write(f"  - {reason}")
        by_itself = f"At {waiting.next_at:%Y-%m-%d %H:%M:%S} UTC, by itself, it {waiting.next_step}."
        if waiting.overdue:
            by_itself += " That time has passed: is the relay of orders running, and a worker of orders?"
        self.stdout.write(self.style.WARNING(by_itself) if waiting.overdue else by_itself)

    def _line(self, moment: Moment, *, began: datetime) -> str:
        after = f"+{(moment.at - began).total_seconds():.3f}"
        spent = " · ".join(f"{stage.name} {_duration(stage.seconds)}" for stage in moment.stages)
        about = ", ".join(filter(None, [moment.detail, spent]))
        indent = "  " * min(moment.depth, INDENT_AT_MOST)
        line = f"{after:>10}  {moment.service:<10}  {indent}{moment.title}"
        styled = self.style.ERROR(line) if moment.trouble else line
        return f"{styled}  ({about})" if about else styled


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
