"""manage.py reconcile: compare what a gateway has booked with the ledger, and repair what differs."""

import getpass
import json
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from common import money
from common.authority import Authority
from common.errors import Refusal
from outbox import clock
from payments import gateways
from payments.books import repairs, settlement_file
from payments.books.periods import HALF_OPEN, argument
from payments.books.reconcile import reconcile, reconcile_told
from payments.gateways.base import GatewayRefused, GatewayUnavailable
from payments.models import Difference, Reconciliation

SHOWN = 50


class Command(BaseCommand):
    help = (
        "Compare what a gateway has booked with the ledger, or repair or accept a difference that was found."
        " The exit status is 1 if differences are open, or if one could not be repaired."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--gateway", default=settings.PAYMENT_GATEWAY, help="stripe or fake (PAYMENT_GATEWAY)")
        parser.add_argument("--from", dest="since", type=argument, metavar="TIME", help=HALF_OPEN)
        parser.add_argument("--to", dest="until", type=argument, metavar="TIME", help="the end of the period")
        parser.add_argument("--csv", type=Path, metavar="FILE", help="a settlement file, instead of asking the gateway")
        parser.add_argument("--json", action="store_true", help="write one JSON object")
        parser.add_argument(
            "--repair", nargs="+", metavar="ID", help="repair these differences; all: each that is open"
        )
        parser.add_argument("--refund", type=UUID, metavar="ID", help="have the gateway refund money of no payment")
        parser.add_argument("--accept", type=UUID, metavar="ID", help="leave this difference as it is")
        parser.add_argument("--why", default="", help="the reason to refund or to accept")
        parser.add_argument("--by", default="", metavar="NAME", help="another name than that of your login")

    def handle(self, *args: Any, **options: Any) -> None:
        now = clock.now("payments")
        by = Authority(options["by"] or getpass.getuser(), is_staff=True)
        try:
            if options["repair"]:
                self.repair(options["repair"], gateway=options["gateway"], now=now)
            elif options["refund"]:
                self.say(repairs.refund(difference_id=options["refund"], reason=options["why"], by=by, now=now))
            elif options["accept"]:
                repairs.accept(difference_id=options["accept"], reason=options["why"], by=by, now=now)
                self.say("Accepted.")
            else:
                self.run(options, now=now)
        except (Refusal, GatewayRefused, GatewayUnavailable) as refusal:
            raise CommandError(f"{refusal} ({refusal.code})") from refusal
        except Difference.DoesNotExist as error:
            raise CommandError("There is no such difference.") from error

    def say(self, line: str) -> None:
        self.stdout.write(line)

    def run(self, options: dict[str, Any], *, now: datetime) -> None:
        gateway, since, until = options["gateway"], options["since"], options["until"]
        if not re.fullmatch(r"[a-z0-9_-]{1,20}", gateway):
            raise CommandError("--gateway: a name of up to 20 lower-case letters, digits, dashes or underscores.")
        if options["csv"] is None:
            if gateway not in gateways.GATEWAYS:
                raise CommandError(f"--gateway: one of {', '.join(gateways.GATEWAYS)}, or give a --csv FILE.")
            if since is None or until is None:
                raise CommandError("Give --from and --to.")
            run = reconcile(gateway=gateway, since=since, until=until, now=now)
        else:
            with options["csv"].open(encoding="utf-8-sig", newline="") as lines:
                told = settlement_file.read(lines)
                source = options["csv"].name
                run = reconcile_told(gateway=gateway, told=told, source=source, since=since, until=until, now=now)
        found = Difference.objects.filter(gateway=gateway, status=Difference.Status.OPEN).order_by("pk")
        if options["json"]:
            self.say(json.dumps({**summary(run), "differences": [as_json(one) for one in found.iterator()]}))
        else:
            self.show(run)
            for one in found[:SHOWN]:
                for line in lines_of(one):
                    self.say(line)
            if (number := found.count()) > SHOWN:
                self.say(f"… and {number - SHOWN} more: see --json, or the admin")
        if found.exists():
            sys.exit(1)

    def show(self, run: Reconciliation) -> None:
        period = f"{run.since:%Y-%m-%d %H:%M} to {run.until:%Y-%m-%d %H:%M} UTC"
        self.say(f"{run.gateway}: {run.transactions} transactions, {period}")
        for one in run.found:
            self.say(f"{one['outcome']:<14} {one['count']:>9} {money.text(one['sum'], currency=one['currency']):>24}")

    def repair(self, ids: list[str], *, gateway: str, now: datetime) -> None:
        chosen = refused = 0
        for one in _chosen(ids, gateway=gateway):
            chosen += 1
            try:
                said = repairs.repair(difference_id=one.pk, now=now)
            except Refusal as refusal:
                refused += 1
                said = f"{refusal} ({refusal.code})"
            self.say(f"{one.pk}  {said}")
        if refused:
            raise CommandError(f"{refused} of {chosen} could not be repaired.")


def _chosen(ids: list[str], *, gateway: str) -> Iterator[Difference]:
    if ids == ["all"]:
        yield from Difference.objects.filter(gateway=gateway, status=Difference.Status.OPEN).order_by("pk").iterator()
        return
    for text in ids:
        try:
            yield Difference.objects.get(pk=UUID(text))
        except ValueError as error:
            raise CommandError(f"{text} is not the id of a difference.") from error


def lines_of(one: Difference) -> Iterator[str]:
    """What is shown of a difference."""
    there = _amount(one.amount_there, one.currency_there)
    here = _amount(one.amount_here, one.currency_here)
    about = " ".join(filter(None, [one.transaction_id, one.payment_id, one.order_id and f"order {one.order_id}"]))
    yield f"{one.kind}: {one.what} of {one.at:%Y-%m-%d %H:%M}: {there} at the gateway, {here} in the ledger; {about}"
    yield f"    repair: {repairs.ADVICE[Difference.Kind(one.kind)].format(id=one.pk)}"


def _amount(minor: int | None, currency: str) -> str:
    return "nothing" if minor is None else money.text(minor, currency=currency)


def summary(run: Reconciliation) -> dict[str, Any]:
    """A run as JSON; amounts are in minor units."""
    return {
        "gateway": run.gateway,
        "from": run.since.isoformat(),
        "to": run.until.isoformat(),
        "transactions": run.transactions,
        "found": run.found,
    }


def as_json(one: Difference) -> dict[str, Any]:
    """A difference as JSON; amounts are in minor units."""
    return {
        "id": str(one.pk), "kind": one.kind, "what": one.what, "transaction_id": one.transaction_id,
        "payment_id": one.payment_id, "order_id": one.order_id, "entry_id": one.entry_id and str(one.entry_id),
        "amount_there": one.amount_there, "currency_there": one.currency_there, "amount_here": one.amount_here,
        "currency_here": one.currency_here, "at": one.at.isoformat(),
        "repair": repairs.ADVICE[Difference.Kind(one.kind)].format(id=one.pk),
    }  # fmt: skip
