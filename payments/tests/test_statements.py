"""Statements, the trial balance and the journal: what people who keep books see of the ledger."""

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import Client

from common.authority import Authority
from common.money import Money
from payments import services
from payments.books import journal, statements, trial_balance
from payments.ledger import CASH, FEES, move, system_account
from payments.models import Account, Entry

pytestmark = pytest.mark.django_db

MAY = datetime(2026, 5, 1, tzinfo=UTC)
JUNE = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def ann() -> Account:
    """An account that is older than its entries."""
    account, _created = services.open_account(user_id="ann")
    Account.objects.filter(pk=account.pk).update(created_at=MAY - timedelta(days=99))
    return account


@pytest.fixture
def moved(ann: Account) -> None:
    """10.00 before May, then 5.00 in and 2.50 out in May, and 1.00 in the first moment of June."""
    deposit(1000, MAY - timedelta(microseconds=1))
    deposit(500, MAY, reason="=1+1")
    services.charge_account(order_id="o1", user_id="ann", money=Money(250, "USD"), now=JUNE - timedelta(seconds=1))
    deposit(100, JUNE)


def deposit(amount: int, now: datetime, *, reason: str = "", user_id: str = "ann") -> Entry:
    return services.deposit(user_id=user_id, amount=amount, now=now, reason=reason)


def get(client: Client, query: str, *, user: str = "ann") -> Any:
    return client.get(f"/accounts/{user}/statement?{query}")


@pytest.fixture
def run(capsys: Any) -> Callable[..., str]:
    """Run `manage.py ledger` and return its output."""

    def run(*args: str) -> str:
        call_command("ledger", *args)
        output: str = capsys.readouterr().out
        return output

    return run


@pytest.mark.usefixtures("moved")
class TestTheStatementOfAnAccount:
    def test_has_what_lies_in_its_period_and_the_balances_at_both_ends(self, client: Client) -> None:
        answer = get(client, "from=2026-05-01&to=2026-06-01")
        assert (answer.status_code, answer["Content-Type"]) == (200, "application/json")
        found = json.loads(answer.getvalue())
        assert {name: value for name, value in found.items() if name != "entries"} == {
            "user_id": "ann", "currency": "USD", "from": "2026-05-01T00:00:00Z", "to": "2026-06-01T00:00:00Z",
            "opening_balance": 10.0, "closing_balance": 12.5,
        }  # fmt: skip
        assert [(one["kind"], one["amount"], one["balance"], one["order_id"]) for one in found["entries"]] == [
            ("deposit", 5.0, 15.0, ""), ("charge", -2.5, 12.5, "o1"),
        ]  # fmt: skip

    def test_begins_with_the_account_and_ends_now(self, client: Client) -> None:
        found = json.loads(get(client, "").getvalue())
        assert (found["opening_balance"], found["closing_balance"], len(found["entries"])) == (0.0, 13.5, 4)

    @pytest.mark.parametrize("query", ["format=csv&from=2026-05-01&to=2026-06-01"])
    def test_is_csv_that_no_spreadsheet_computes(self, client: Client, query: str) -> None:
        answer = get(client, query)
        assert answer["Content-Type"] == "text/csv; charset=utf-8"
        assert "attachment" in answer["Content-Disposition"]
        rows = list(csv.reader(io.StringIO(answer.getvalue().decode())))
        assert rows[0] == ["at", "kind", "amount", "balance", "order_id", "reason", "entry_id"]
        assert [row[:6] for row in rows[1:]] == [
            ["2026-05-01T00:00:00Z", "opening balance", "", "10.00", "", ""],
            ["2026-05-01T00:00:00Z", "deposit", "5.00", "15.00", "", "'=1+1"],
            ["2026-05-31T23:59:59Z", "charge", "-2.50", "12.50", "o1", ""],
            ["2026-06-01T00:00:00Z", "closing balance", "", "12.50", "", ""],
        ]

    def test_is_read_page_by_page(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(statements, "BATCH", 1)
        found = json.loads(get(client, "").getvalue())
        assert [one["balance"] for one in found["entries"]] == [10.0, 15.0, 12.5, 13.5]

    def test_of_another_client_does_not_exist(self, client: Client) -> None:
        assert get(client, "", user="bob").json()["code"] == "no_account"
        services.open_account(user_id="eve", principal="another")
        Account.objects.filter(user_id="ann").update(principal="another")
        shown = get(client, "")  # where the API is open there are no clients, and all is seen
        assert shown.status_code == 200

    @pytest.mark.parametrize(
        ("query", "field"),
        [("from=yesterday", "from"), ("to=2026-13-01", "to"), ("from=2026-06-01&to=2026-05-01", "to"),
         ("since=2026-05-01", "since"), ("from=0001-01-01T00:00:00%2B14:00", "from"), ("from=%00", "from"),
         ("from=0001-01-01", "from"), ("to=9999-12-31", "to")],
    )  # fmt: skip
    def test_needs_a_period(self, client: Client, query: str, field: str) -> None:
        answer = get(client, query)
        assert (answer.status_code, list(answer.json()["errors"])) == (400, [field])

    def test_is_shown_at_a_terminal_with_the_other_accounts(self, run: Callable[..., str]) -> None:
        period = ("--from", "2026-05-01", "--to", "2026-06-01T00:00:00")
        text = run("statement", "--user", "ann", *period)
        assert re.search(r"charge +-2\.50 +12\.50 +o1 .* revenue$", text, re.MULTILINE)
        cash = json.loads(run("statement", "--account", "cash", *period, "--format", "json"))
        assert (cash["opening_balance"], cash["closing_balance"]) == (-10.0, -15.0)
        assert [one["other_account"] for one in cash["entries"]] == ["ann"]
        with pytest.raises(CommandError, match="no account nobody"):
            run("statement", "--account", "nobody", *period)


@pytest.mark.usefixtures("moved")
class TestTheTrialBalance:
    def test_sums_to_zero_at_any_time_in_each_currency(self, run: Callable[..., str]) -> None:
        services.open_account(user_id="jo", currency="JPY")
        services.deposit(user_id="jo", amount=7, now=MAY, currency="JPY")
        jpy, usd = trial_balance.trial_balances(at=JUNE)
        assert {row.name: row.balance for row in usd.rows} == {"cash": -1500, "customers": 1250, "revenue": 250}
        assert (usd.debit, usd.credit, usd.is_balanced) == (1750, 1750, True)
        assert {row.name: (row.debit, row.credit) for row in jpy.rows} == {"cash": (7, 0), "customers": (0, 7)}
        assert trial_balance.trial_balances(at=MAY, currency="JPY") == []
        assert re.search(r"  sum +18\.50 +18\.50 +0\.00\n", run("trial_balance", "--currency", "USD"))

    def test_says_where_it_does_not(self, ann: Account, run: Callable[..., str]) -> None:
        euros = system_account(CASH, currency="EUR")
        Entry.objects.create(kind="deposit", source=euros, target=ann, amount=1, currency="EUR", at=MAY)
        assert [one.is_balanced for one in trial_balance.trial_balances()] == [False, False]
        with pytest.raises(SystemExit, match="Does not sum to zero: EUR, USD"):
            run("trial_balance")


def read_journal(text: str) -> list[tuple[str, str, dict[str, str], list[tuple[str, Decimal, str]]]]:
    """Read a journal by the rules of hledger, as far as it uses them: each transaction and its postings."""
    found: list[Any] = []
    for line in text.splitlines():
        if not line or line.startswith(";"):
            continue
        if header := re.fullmatch(r"(\d{4}-\d\d-\d\d) \* ([^;|]+)", line):
            found.append((header[1], header[2], {}, []))
        elif tags := re.fullmatch(r" +; (.+)", line):
            found[-1][2].update(tag.split(":", 1) for tag in tags[1].split(", "))
        else:
            # The account ends with two spaces; it has no other syntax in it.
            posting = re.fullmatch(
                r" {4}([^\s;*!()\[\]](?:[^\s;()\[\]]| (?! ))*) {2,}(-?\d+(?:\.\d+)?) ([A-Z]{3})", line
            )
            assert posting, line
            found[-1][3].append((posting[1].rstrip(), Decimal(posting[2]), posting[3]))
    return found


class TestTheJournal:
    def test_has_every_entry_of_the_period_with_the_right_signs(self, moved: None) -> None:
        name = "a; b:c  (d)\u2028"
        services.open_account(user_id=name, principal="shop")
        services.correct(
            user_id=name, principal="shop", amount=7, reason="late, entry:forged\n; x",
            by=Authority("bo"), now=MAY,
        )  # fmt: skip
        usd = {one: system_account(one, currency="USD") for one in (FEES, CASH)}
        move(
            kind=Entry.Kind.FEE, source=usd[FEES], target=usd[CASH], amount=30, now=MAY, order_id="o1", gateway_id="t1"
        )
        read = read_journal("".join(journal.as_hledger(MAY, JUNE)))
        assert [(date, kind) for date, kind, _tags, _postings in read] == [
            ("2026-05-01", "deposit"), ("2026-05-31", "charge"), ("2026-05-01", "correction"), ("2026-05-01", "fee"),
        ]  # fmt: skip
        sums: dict[str, Decimal] = defaultdict(Decimal)
        for _date, _kind, tags, postings in read:
            assert sum(amount for _account, amount, _currency in postings) == 0
            assert tags["entry"] in {str(pk) for pk in Entry.objects.values_list("pk", flat=True)}
            for account, amount, _currency in postings:
                sums[account] += amount
        assert sums == {
            "assets:cash": Decimal("4.70"), "liabilities:customers:ann": Decimal("-2.50"),
            "revenues:orders": Decimal("-2.50"), "equity:corrections": Decimal("0.07"),
            "liabilities:customers:shop:a%3B%20b%3Ac%20%20%28d%29%E2%80%A8": Decimal("-0.07"),
            "expenses:fees": Decimal("0.30"),
        }  # fmt: skip
        assert read[2][2]["reason"] == "late entry:forged ; x"

    def test_is_csv_too(self, moved: None, run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(journal, "BATCH", 1)
        rows = list(csv.DictReader(io.StringIO(run("export", "--from", "2026-05-01", "--format", "csv"))))
        assert [(row["debit"], row["credit"], row["amount"]) for row in rows] == [
            ("assets:cash", "liabilities:customers:ann", "5.00"),
            ("liabilities:customers:ann", "revenues:orders", "2.50"),
            ("assets:cash", "liabilities:customers:ann", "1.00"),
        ]
        assert rows[0]["reason"] == "'=1+1"
        assert rows[1]["at"] == "2026-05-31T23:59:59Z"


def test_a_period_is_found_by_the_index_of_times() -> None:
    with connections["payments"].cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("EXPLAIN SELECT order_id FROM payments_entry WHERE at >= now() AND at < now()")
        assert "entry_by_time" in " ".join(line for (line,) in cursor.fetchall())
