"""
What needs a person, as one table: the number, what to do about it, and the list that shows it.

The dashboard and `manage.py status` show the same rows of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.utils.translation import gettext_lazy as _

from orders.saga import REPEATING

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Concern:
    """
    The sum of a gauge, over the rows whose labels have one of these values.

    `page` is the service and the model of the list that shows what is counted, under the filters of `query`.
    """

    title: Any
    to_do: Any
    gauge: str
    page: tuple[str, str]
    query: str
    where: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def service(self) -> str:
        """The service whose database is read."""
        return self.page[0]

    def count(self, rows: Iterable[Row]) -> int | None:
        """The number in these rows; none if it has not been read."""
        numbers = [int(row[self.gauge]) for row in rows if self.gauge in row and self._counts(row)]
        return sum(numbers) if numbers else None

    def _counts(self, row: Row) -> bool:
        return all(str(row.get(label)) in values for label, values in self.where.items())


CONCERNS = (
    Concern(
        _("Stuck orders"),
        _("They are past the timeout of their status. Open one: its page says what it waits for."),
        "orders_stuck",
        ("orders", "order"),
        "standing=stuck",
    ),
    Concern(
        _("Orders asking again and again"),
        _("Nobody answers what they ask for. Open one, and look for a silent gateway, a dead letter or a refusal."),
        "orders_stuck",
        ("orders", "order"),
        "standing=repeating",
        {"status": frozenset(map(str, REPEATING))},
    ),
    Concern(
        _("Late webhooks to clients"),
        _("They should have been sent a minute ago. Check that a worker of orders and the clock (beat) are running."),
        "webhook_deliveries_late",
        ("orders", "webhookdelivery"),
        "sending=late",
    ),
    Concern(
        _("Payments without an answer"),
        _("The gateway does not answer. It is asked again automatically; check the gateway and its status page."),
        "payments_silent",
        ("payments", "payment"),
        "answers=no",
    ),
    Concern(
        _("Cancellations refused by the gateway"),
        _("Open each payment: ask the gateway again, or record that it was settled by hand."),
        "payments_refused",
        ("payments", "payment"),
        "status__exact=void_refused",
        {"status": frozenset({"void_refused"})},
    ),
    Concern(
        _("Refunds refused by the gateway"),
        _("Open each payment: ask the gateway again, or record that it was settled by hand."),
        "payments_refused",
        ("payments", "payment"),
        "status__exact=refund_refused",
        {"status": frozenset({"refund_refused"})},
    ),
    Concern(
        _("Late refunds"),
        _("The gateway has not said for long how they ended. Look them up at the gateway."),
        "refunds_late",
        ("payments", "refund"),
        "trouble=late",
    ),
    Concern(
        _("Failed refunds, last 24 hours"),
        _("The customers have not got this money. Refund it again on the page of the order, or by another way."),
        "refunds_failed",
        ("payments", "refund"),
        "trouble=failed",
    ),
    Concern(
        _("Quarantined webhooks"),
        _("They contradict what is known. Open each: match it with an order, refund it, or discard it."),
        "webhooks_open",
        ("payments", "webhookreceipt"),
        "status__exact=quarantined",
        {"status": frozenset({"quarantined"})},
    ),
    Concern(
        _("Webhooks without a payment"),
        _("No payment has been known for an hour. Open each: match it with an order, refund it, or discard it."),
        "webhooks_unmatched_late",
        ("payments", "webhookreceipt"),
        "waiting=late",
    ),
    Concern(
        _("Disputes to answer"),
        _("Answer them at the gateway: less than three days are left, or none."),
        "disputes_due",
        ("payments", "dispute"),
        "standing=due",
    ),
    Concern(
        _("Differences with the gateway"),
        _("The ledger and the gateway disagree. Open each: have it repaired, or accept it with a reason."),
        "gateway_differences",
        ("payments", "difference"),
        "waiting=yes",
    ),
    Concern(
        _("Expired stock holds"),
        _("They should have been released. Check that a worker of processing and the clock (beat) are running."),
        "stock_holds_late",
        ("processing", "hold"),
        "expired=late",
    ),
)
GAUGES = frozenset(concern.gauge for concern in CONCERNS)


def found(rows: Iterable[Row]) -> list[tuple[Concern, int]]:
    """The concerns that need a person now, each with its number."""
    rows = list(rows)
    return [(concern, number) for concern in CONCERNS if (number := concern.count(rows))]
