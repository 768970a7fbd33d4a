"""What payments stores about a person: see common/personal_data.py."""

from django.db.models import Q, QuerySet

from common import money
from common.personal_data import Person, Table, data, empty, encoded, mentions, messages, name, remark, text

from .models import (
    Account,
    Attempt,
    DeadLetter,
    Difference,
    Dispute,
    Entry,
    GatewayTransaction,
    IdempotencyKey,
    Outgoing,
    Payment,
    Refund,
    WebhookReceipt,
)


def reason(value: str, person: Person) -> str:
    """Return the reason of an entry, which is never empty where it has to be one."""
    return value if person.free(value) == value else "erased"


ACCOUNTS = Table(Account, {"user_id": name}, named=("user_id",), client="principal")
TABLES = (
    Table(
        Payment,
        {"user_id": name, "client_secret": empty, "next_action": empty, "settled_why": remark},
        of_order="order_id",
        hidden=("client_secret", "next_action"),
    ),
    Table(Attempt, {"message": empty}, of_order="payment__order_id"),
    Table(Refund, {"reason": remark}, of_order="payment__order_id"),
    Table(Dispute, of_order="payment__order_id"),
    Table(WebhookReceipt, {"headers": data, "body": encoded(data), "reason": remark}, of_order="order_id"),
    Table(GatewayTransaction, {"description": text}, of_order="order_id"),
    Table(Difference, {"closed_why": remark}, of_order="order_id"),
    Table(Entry, of_order="order_id"),
    *messages(Outgoing, DeadLetter),
    Table(
        Entry, {"reason": reason}, named=("source__user_id", "target__user_id"), mentioned=("reason",)
    ),  # before accounts, by whose names they are found
    ACCOUNTS,
    # What a person has decided about money of no order, or of somebody else's.
    Table(
        WebhookReceipt,
        {"reason": remark},
        mentioned=("reason",),
        among=Q(status=WebhookReceipt.Status.DISCARDED),
    ),
    Table(Difference, {"closed_why": remark}, mentioned=("closed_why",)),
    # What a gateway has booked for no order of ours: those of orders are found above.
    Table(GatewayTransaction, {"description": text}, mentioned=("description",), among=Q(order_id="")),
    Table(
        IdempotencyKey,
        {"answer": encoded(mentions), "answer_headers": mentions},
        mentioned=("answer",),
        client="principal",
    ),
)


def open_of_orders(order_ids: list[str]) -> list[str]:
    """Return what has to end before these orders can be erased."""
    payments = Payment.objects.filter(pk__in=order_ids, status__in=(*Payment.ASKED, *Payment.REFUSED))
    refunds = Refund.objects.filter(payment__in=order_ids, status__in=Refund.OPEN)
    disputes = Dispute.objects.filter(payment__in=order_ids, status=Dispute.Status.OPENED)
    receipts = WebhookReceipt.objects.filter(order_id__in=order_ids, status__in=WebhookReceipt.UNSETTLED)
    return [
        *(f"payment {payment.order_id} is {payment.status}" for payment in payments),
        *(f"refund {refund.refund_id} of order {refund.payment_id} is {refund.status}" for refund in refunds),
        *(f"dispute {dispute.dispute_id} of order {dispute.payment_id} is open" for dispute in disputes),
        *(f"webhook {receipt.webhook_id} about {receipt.order_id} is {receipt.status}" for receipt in receipts),
    ]


def open_accounts(person: Person) -> list[str]:
    """Return which accounts of this person still hold money."""
    accounts = accounts_of(person).exclude(balance=0)
    return [f"account {one.user_id} holds {money.text(one.balance, currency=one.currency)}" for one in accounts]


def clients_of(person: Person) -> set[str]:
    """Return whose accounts have these names."""
    return set(accounts_of(person).values_list("principal", flat=True))


def accounts_of(person: Person) -> QuerySet[Account]:
    """Return the accounts of customers that this person has."""
    return ACCOUNTS.rows(person).filter(kind=Account.Kind.CUSTOMER)
