"""A ledger and what a gateway has booked, as many rows as asked for, that agree but for fifty planted differences."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connections

from outbox.ids import floor7
from payments.gateways.base import Transaction
from payments.ledger import CASH, REVENUE, system_account

Kind = Transaction.Kind
REFUNDED = 10  # every tenth payment is refunded in half
FEE = 30

# The ids of payments and of refunds are made from their number; those of refunds of releases before are not known here.
PLANT = """
CREATE FUNCTION pg_temp.id7(floor uuid, i bigint) RETURNS uuid LANGUAGE sql AS
$$ SELECT (left(floor::text, 24) || lpad(to_hex(i), 12, '0'))::uuid $$;
INSERT INTO payments_payment
    (order_id, method, gateway, gateway_payment_id, user_id, amount, currency, status, fail_reason, unanswered,
     created_at, updated_at)
SELECT 'o' || i, 'gateway', 'fake', 'pi_' || i, '', 1000 + i %% 500, 'USD', 'succeeded', '', 0, now(), now()
FROM generate_series(1, %(number)s) i;
INSERT INTO payments_entry
    (id, kind, source_id, target_id, amount, currency, order_id, reason, actor, request_id, gateway_id, at)
SELECT pg_temp.id7(%(floor)s, i), 'charge', %(cash)s, %(revenue)s, 1000 + i %% 500, 'USD', 'o' || i, '', '', '', '',
       %(since)s + i * %(pace)s + interval '2 seconds'
FROM generate_series(1, %(number)s) i WHERE i <> ALL(%(no_charge)s);
INSERT INTO payments_entry
    (id, kind, source_id, target_id, amount, currency, order_id, reason, actor, request_id, gateway_id, at)
SELECT pg_temp.id7(%(floor)s, i + 100000000), 'refund', %(revenue)s, %(cash)s, (1000 + i %% 500) / 2, 'USD', 'o' || i,
       '', '', '', CASE WHEN i %% (3 * %(refunded)s) = 0 THEN '' ELSE 're_' || i END,
       %(since)s + i * %(pace)s + interval '3 seconds'
FROM generate_series(%(refunded)s, %(number)s, %(refunded)s) i WHERE i <> ALL(%(no_refund)s);
"""


@dataclass
class Planted:
    """
    So many payments within a day from `since`, and what the gateway says of them.

    `expected` are the differences: the kind, what was booked, and the number of the payment.
    """

    number: int
    since: datetime
    expected: set[tuple[str, str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        every = self.number // (60 * REFUNDED) * REFUNDED
        assert every > REFUNDED
        numbers = [every * n + 1 for n in range(1, 46)]  # none of them is refunded
        refunds = [(every * n // REFUNDED + 1) * REFUNDED for n in range(46, 56)]
        self.no_charge, self.unknown, self.untold = set(numbers[:10]), set(numbers[10:20]), set(numbers[20:30])
        self.other_amount, self.other_currency = set(numbers[30:35]), set(numbers[35:40])
        self.no_refund, self.untold_refund = set(refunds[:5]), set(refunds[5:])
        for kind, what, where in (
            ("missing_here", "charge", self.no_charge),
            ("unknown", "charge", self.unknown),
            ("missing_there", "charge", self.untold),
            ("differing", "charge", self.other_amount | self.other_currency),
            ("missing_here", "refund", self.no_refund),
            ("missing_there", "refund", self.untold_refund),
        ):
            self.expected |= {(kind, what, str(i)) for i in where}
        assert len(self.expected) == 50

    @property
    def until(self) -> datetime:
        return self.since + timedelta(days=1)

    @property
    def pace(self) -> timedelta:
        return timedelta(days=1) / (self.number + 10)

    def plant(self) -> None:
        """Store the payments and their entries."""
        values: dict[str, Any] = {
            "number": self.number, "since": self.since, "pace": self.pace, "refunded": REFUNDED,
            "floor": floor7(self.since), "no_charge": sorted(self.no_charge), "no_refund": sorted(self.no_refund),
            "cash": system_account(CASH, currency="USD").pk, "revenue": system_account(REVENUE, currency="USD").pk,
        }  # fmt: skip
        with connections["payments"].cursor() as cursor:
            cursor.execute(PLANT, values)

    def transactions(self) -> Iterator[Transaction]:
        """Yield what the gateway has booked."""
        for i in range(1, self.number + 1):
            at, amount = self.since + i * self.pace, 1000 + i % 500
            if i not in self.untold:
                yield Transaction(
                    transaction_id=f"txn_{i}", kind=Kind.CHARGE, at=at, fee=FEE,
                    amount=amount + (i in self.other_amount), currency="EUR" if i in self.other_currency else "USD",
                    payment_id=f"pi_{i}", source_id=f"pi_{i}",
                )  # fmt: skip
            if i in self.unknown:
                yield Transaction(
                    transaction_id=f"txn_s{i}", kind=Kind.CHARGE, at=at, fee=0, amount=amount, currency="USD",
                    payment_id=f"pi_s{i}", source_id=f"pi_s{i}",
                )  # fmt: skip
            if i % REFUNDED == 0 and i not in self.untold_refund:
                yield Transaction(
                    transaction_id=f"txn_r{i}", kind=Kind.REFUND, at=at + timedelta(seconds=1), fee=0,
                    amount=amount // 2, currency="USD", payment_id=f"pi_{i}", source_id=f"re_{i}",
                )  # fmt: skip
