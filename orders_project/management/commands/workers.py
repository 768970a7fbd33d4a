"""manage.py workers: what each worker does at this moment."""

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from common.durations import duration
from orders_project.observability import workers
from orders_project.observability.workers import Worker, Workers


class Command(BaseCommand):
    help = (
        "Show what each worker does at this moment: the message, its order, and for how long. "
        "The exit code is 0 if all is well, 1 if a worker does not answer or handles a message for too long."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="write JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            found = workers.look()
        except workers.CannotAsk as error:
            raise CommandError(str(error)) from None
        self.stdout.write(json.dumps(asdict(found), indent=2) if options["json"] else "\n".join(self._screen(found)))
        if found.troubles:
            raise SystemExit(1)

    def _screen(self, found: Workers) -> Iterator[str]:
        width = max((len(worker.name) for worker in found.workers), default=0) + 2
        yield self.style.MIGRATE_HEADING(f"{'worker':<{width}}{'process':>8}  {'handles':<28}{'for':>8}  order")
        for worker in found.workers:
            yield from self._lines(worker, width=width)
        yield ""
        if not found.troubles:
            yield self.style.SUCCESS("All workers answer.")
        for trouble in found.troubles:
            yield self.style.ERROR(f"! {trouble}")

    def _lines(self, worker: Worker, *, width: int) -> Iterator[str]:
        for task in worker.tasks:
            number = f" (#{task.order_number})" if task.order_number is not None else ""
            number += f" and {task.others} more" if task.others else ""
            spent = duration(task.seconds)
            yield f"{worker.name:<{width}}{task.pid or '-':>8}  {task.type:<28}{spent:>8}  {task.order_id}{number}"
        waiting = f"{worker.reserved} waiting" if worker.reserved else "" if worker.tasks else "nothing"
        if waiting:
            yield f"{worker.name:<{width}}{'':>8}  {waiting}"
