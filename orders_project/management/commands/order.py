"""manage.py order: the timeline of one order."""

import json
from argparse import ArgumentParser
from dataclasses import asdict
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import Q
from django.utils import timezone

from common.durations import duration
from orders.archive import HistoryDetached
from orders.models import Order
from orders_project.backoffice import timeline
from orders_project.backoffice.timeline import Moment, Timeline

MAX_INDENT = 8


def id_of(name: str) -> str:
    """
    Return the id of the order with this id, or with this number, or to which a client gave this id; the same name if
    there is none.

    :raises CommandError: if there are several, all of which it names
    """
    if Order.objects.filter(pk=name).exists():
        return name
    named, number = Q(reference=name) & ~Q(reference=""), name.removeprefix("#")
    if number.isascii() and number.isdigit() and len(number) < 19:
        named |= Q(number=number)
    found = list(Order.objects.filter(named).order_by("number"))
    if len(found) > 1:
        each = "".join(f"\n  #{order.number}  {order.pk}  {order.principal or '-'}" for order in found)
        raise CommandError(f"Several orders are called {name}. Take the number or the id of one of them:{each}")
    return found[0].pk if found else name


class Command(BaseCommand):
    help = "Show the timeline of one order over all services: causes and effects, time spent, and why it waits."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("order_id", metavar="ID", help="its id, its number, or the id that a client gave it")
        parser.add_argument("--json", action="store_true", help="write JSON")

    def handle(self, *args: Any, order_id: str, **options: Any) -> None:
        now = timezone.now()
        try:
            found = timeline.of(id_of(order_id), now=now)
        except Order.DoesNotExist:
            raise CommandError(f"There is no order {order_id}.", returncode=4) from None
        except HistoryDetached as detached:
            raise CommandError(str(detached)) from None
        if options["json"]:
            self.stdout.write(json.dumps(asdict(found), cls=DjangoJSONEncoder, indent=2))
            return
        self._show(found, now=now)

    def _show(self, found: Timeline, *, now: datetime) -> None:
        because = f" ({found.fail_reason})" if found.fail_reason else ""
        back = found.turned_back
        began = found.moments[0].at
        self.stdout.write(self.style.MIGRATE_HEADING(f"Order {found.order_id}: {found.status}{because}"))
        if back is not None:
            by = f" By {back.by}." if back.by else ""
            note = f" Reason given: {back.note}" if back.note else ""
            self.stdout.write(f"{back.why}{by}{note}")
        self.stdout.write(f"since {began:%Y-%m-%d %H:%M:%S} UTC\n\n")
        for moment in found.moments:
            self.stdout.write(self._line(moment, began=began))
        if found.waiting is None:
            return
        waiting = found.waiting
        title = "Why it is stuck" if waiting.stuck else "What happens now"
        age = duration((now - waiting.since).total_seconds())
        self.stdout.write(f"\n{title} ({found.status} for {age}):")
        for reason in waiting.reasons:
            self.stdout.write(f"  - {reason}")
        left = (waiting.next_at - now).total_seconds()
        when = f"in {duration(left)}" if left > 0 else f"{duration(-left)} ago"
        next_step = f"{waiting.next_step} {when} ({waiting.next_at:%Y-%m-%d %H:%M:%S} UTC)."
        if waiting.overdue:
            next_step = f"The next step is overdue: it was due {when} ({waiting.next_at:%Y-%m-%d %H:%M:%S} UTC)."
            next_step += " Is the relay of orders running, and a worker of orders?"
        self.stdout.write(self.style.WARNING(next_step) if waiting.overdue else next_step)

    def _line(self, moment: Moment, *, began: datetime) -> str:
        after = f"+{(moment.at - began).total_seconds():.3f}"
        spent = " · ".join(f"{stage.name} {duration(stage.seconds)}" for stage in moment.stages)
        about = ", ".join(filter(None, [moment.detail, spent]))
        indent = "  " * min(moment.depth, MAX_INDENT)
        line = f"{after:>10}  {moment.service:<10}  {indent}{moment.title}"
        styled = self.style.ERROR(line) if moment.trouble else line
        return f"{styled}  ({about})" if about else styled
