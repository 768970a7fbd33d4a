"""Settlement files: what is in them is stored as the gateway would have told it, or nothing of it is."""

from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from payments.books import settlement_file
from payments.books.settlement_file import BadFile
from payments.models import Difference, Entry, GatewayTransaction, Reconciliation

HEAD = "transaction_id,kind,amount,fee,currency,at,payment_id\n"
GOOD = "t1,charge,12.50,0.40,USD,2026-11-01T10:00:00Z,p1\n"


def read(text: str) -> list[Any]:
    return list(settlement_file.read(text.splitlines(keepends=True)))


class TestALine:
    def test_is_a_transaction(self) -> None:
        (one,) = read('At,KIND,currency,amount,transaction_id\n"2026-11-01 12:00:00+02:00",refund,JPY,500, t1 \n\n')
        assert (one.transaction_id, one.kind, one.amount, one.fee, one.currency) == ("t1", "refund", 500, 0, "JPY")
        assert one.at.isoformat() == "2026-11-01T10:00:00+00:00"

    @pytest.mark.parametrize(
        ("cells", "problem"),
        [
            (",charge,1,0,USD,2026-11-01T10:00:00Z,", "transaction_id is empty"),
            ("t,sale,1,0,USD,2026-11-01T10:00:00Z,", "kind: one of charge"),
            ("t,charge,-1,0,USD,2026-11-01T10:00:00Z,", "amount: without a sign"),
            ("t,charge,0,0,USD,2026-11-01T10:00:00Z,", "amount: without a sign"),
            ("t,charge,1.005,0,USD,2026-11-01T10:00:00Z,", "amount: An amount in USD has at most 2 decimals"),
            ("t,charge,NaN,0,USD,2026-11-01T10:00:00Z,", "amount: An amount must be a finite number"),
            ("t,charge,1,x,USD,2026-11-01T10:00:00Z,", "fee: An amount must be a number"),
            ("t,charge,1,0,usd,2026-11-01T10:00:00Z,", "currency: one of USD"),
            ("t,charge,1,0,USD,2026-11-01T10:00:00,", "at: a date and time with its offset"),
            ("t,charge,1,0,USD,2026-13-01T10:00:00Z,", "at: a date and time with its offset"),
            ("t,charge,1,0,USD,0001-01-01T00:00:00+14:00,", "at: a date and time with its offset"),
            ("t,charge,1,0,USD", "5 columns instead of 7"),
            (f"t,charge,1,0,USD,2026-11-01T10:00:00Z,{'x' * 101}", "payment_id: up to 100"),
            ("t1,charge,1,0,USD,2026-11-01T10:00:00Z,", "t1 was on a line before"),
        ],
    )
    def test_that_cannot_be_read_is_named_by_its_number(self, cells: str, problem: str) -> None:
        with pytest.raises(BadFile) as caught:
            read(f"{HEAD}{GOOD}{cells}\n")
        assert caught.value.problems[0].startswith(f"line 3: {problem}")

    def test_is_one_of_twenty_that_are_named(self) -> None:
        with pytest.raises(BadFile, match="… and 5 more lines"):
            read(HEAD + "x\n" * 25)


@pytest.mark.parametrize(
    ("head", "problem"),
    [("kind,amount,currency,at", "transaction_id is missing"), (HEAD.strip() + ",iban", "no column iban"),
     (HEAD.strip() + ",fee", "fee is there twice"), ("", "transaction_id is missing")],
)  # fmt: skip
def test_the_columns_are_known(head: str, problem: str) -> None:
    with pytest.raises(BadFile, match=problem):
        read(head + "\n")


@pytest.mark.django_db
class TestAFile:
    def write(self, home: Path, *lines: str) -> str:
        file = home / "settled.csv"
        file.write_text(HEAD + "".join(lines), encoding="utf-8")
        return str(file)

    def test_with_a_bad_line_leaves_nothing(self, tmp_path: Path) -> None:
        file = self.write(tmp_path, GOOD, "bad\n")
        with pytest.raises(CommandError, match="line 3: 1 columns"):
            call_command("reconcile", "--gateway", "paypal", "--csv", file)
        assert not GatewayTransaction.objects.exists()
        assert not Reconciliation.objects.exists()

    def test_is_compared_for_the_time_of_its_lines(self, tmp_path: Path, capsys: Any) -> None:
        file = self.write(tmp_path, GOOD, GOOD.replace("t1", "t2").replace("p1", "p2"))
        with pytest.raises(SystemExit):
            call_command("reconcile", "--gateway", "paypal", "--csv", file)
        output = capsys.readouterr().out
        assert "paypal: 2 transactions" in output
        assert "unknown: charge of 2026-11-01 10:00: 12.50 USD at the gateway, nothing in the ledger; t1 p1" in output
        found = Difference.objects.get(transaction_id="t2")
        assert f"--refund {found.pk} --why REASON" in output
        assert (Entry.objects.filter(kind="fee", gateway_id__in=("paypal:t1", "paypal:t2"), amount=40).count()) == 2
        call_command("reconcile", "--accept", str(found.pk), "--why", "of another shop", "--by", "ann")
        found.refresh_from_db()
        assert (found.status, found.closed_by, found.closed_why) == ("accepted", "ann", "of another shop")
        # What was accepted stays so, although it is in the next file as well.
        with pytest.raises(SystemExit):
            call_command("reconcile", "--gateway", "paypal", "--csv", file)
        assert "t2" not in capsys.readouterr().out
        assert Entry.objects.filter(kind="fee").count() == 2
