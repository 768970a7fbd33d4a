"""manage.py ledger: statements, the trial balance, and the ledger as a file."""

import sys
from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from common import money
from common.errors import Refusal
from common.reads import may_lag
from outbox import clock
from payments import ledger, services
from payments.books import journal, statements, trial_balance
from payments.books.periods import HALF_OPEN, argument
from payments.models import Account


class Command(BaseCommand):
    help = f"Show the ledger to people who keep books: see docs/accounting.md. {HALF_OPEN}"

    def add_arguments(self, parser: ArgumentParser) -> None:
        kinds = parser.add_subparsers(dest="what", required=True, metavar="statement|trial_balance|export")

        one = kinds.add_parser("statement", help="what an account had, its entries, and what it has")
        who = one.add_mutually_exclusive_group(required=True)
        who.add_argument("--user", metavar="ID", help="the account of a customer")
        who.add_argument("--account", metavar="NAME", help="one of the system's own: cash, revenue, fees …")
        one.add_argument("--client", default="", help="of which client it is a customer")
        one.add_argument("--currency", default="", help="of the account, where there are several")
        one.add_argument("--format", choices=statements.FORMATS, default="text")
        _add_period(one)

        trial = kinds.add_parser("trial_balance", help="all accounts, which sum to zero in each currency")
        trial.add_argument("--at", type=argument, metavar="TIME", help="before this time; without it, now")
        trial.add_argument("--currency", default="", help="this currency only")

        export = kinds.add_parser("export", help="all entries as a journal of hledger or Ledger, or as CSV")
        export.add_argument("--format", choices=journal.FORMATS, default="hledger")
        _add_period(export)

    def handle(self, *args: Any, what: str, **options: Any) -> None:
        try:
            getattr(self, what)(**options)
        except Refusal as refusal:
            raise CommandError(f"{refusal} ({refusal.code})") from refusal

    def statement(self, *, since: datetime, until: datetime | None, **options: Any) -> None:
        account = _account(options)
        stated = statements.statement(account=account, since=since, until=until or clock.now("payments"))
        for line in statements.FORMATS[options["format"]](stated, internal=True):
            self.stdout.write(line, ending="")

    def trial_balance(self, *, at: datetime | None, currency: str, **options: Any) -> None:
        found = may_lag(lambda: trial_balance.trial_balances(at=at, currency=currency), "payments")
        for one in found:
            self.stdout.write(f"{one.currency:<24}{'debit':>20}{'credit':>20}{'balance':>20}")
            for row in (*one.rows, trial_balance.Row("sum", one.debit, one.credit)):
                amounts = (row.debit, row.credit, row.balance)
                self.stdout.write(f"  {row.name:<22}" + "".join(f"{_bare(each, one.currency):>20}" for each in amounts))
        if wrong := [one.currency for one in found if not one.is_balanced]:
            sys.exit(f"Does not sum to zero: {', '.join(wrong)}. See manage.py audit.")

    def export(self, *, since: datetime, until: datetime | None, **options: Any) -> None:
        for part in journal.FORMATS[options["format"]](since, until or clock.now("payments")):
            self.stdout.write(part, ending="")


def _add_period(parser: ArgumentParser) -> None:
    parser.add_argument("--from", dest="since", type=argument, required=True, metavar="TIME", help=HALF_OPEN)
    parser.add_argument("--to", dest="until", type=argument, metavar="TIME", help="without it, now")


def _account(options: dict[str, Any]) -> Account:
    if user_id := options["user"]:
        return services.account_of(user_id, principal=options["client"], currency=options["currency"])
    found = list(Account.objects.filter(kind=Account.Kind.SYSTEM, user_id=options["account"]))
    if not found:
        raise CommandError(f"There is no account {options['account']}; {ledger.CASH} is one.")
    return services.pick(found, user_id=options["account"], currency=options["currency"])


def _bare(minor: int, currency: str) -> str:
    return money.text(minor, currency=currency).removesuffix(f" {currency}")
