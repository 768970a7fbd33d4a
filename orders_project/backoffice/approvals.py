"""The four-eyes rule: whoever gives back more than a set amount needs the approval of a second person."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _g

from common import money
from common.errors import Refusal
from orders import repair
from orders_project.models import Approval
from payments import receipts, services

Status = Approval.Status


class AlreadyRequested(Refusal):
    """The same approval has already been requested."""

    code = "waits_for_approval"


class AlreadyDecided(Refusal):
    """The request has already been approved or rejected."""

    code = "already_decided"


class SamePerson(Refusal):
    """The person who requested it cannot decide."""

    code = "second_person_needed"


def _compensate(approval: Approval, actor: str, now: datetime) -> None:
    repair.turn_back(order_id=approval.subject, now=now, actor=actor, reason=approval.reason)


def _refund_webhook(approval: Approval, actor: str, now: datetime) -> None:
    receipts.refund(receipt_id=approval.subject, actor=actor)


def _settle_payment(approval: Approval, actor: str, now: datetime) -> None:
    services.settle_by_hand(order_id=approval.subject, reason=approval.reason, actor=actor, now=now)


# What can wait for approval, by its stored name. Each function can be repeated safely: if a crash after the call loses
# the approval, it is approved once more and nothing more happens.
ACTIONS: dict[str, Callable[[Approval, str, datetime], None]] = {
    "compensate_order": _compensate,
    "refund_webhook": _refund_webhook,
    "settle_payment": _settle_payment,
}


def is_needed(amount: int | None, currency: str) -> bool:
    """Whether giving back this amount needs a second person."""
    if not amount:
        return False
    limit = money.minor_units(settings.REFUND_APPROVAL_ABOVE, currency=currency)
    return amount > limit


def request(*, action: str, subject: str, amount: int, currency: str, reason: str, by: str) -> Approval:
    """
    Request an approval.

    :raises AlreadyRequested: if the same was requested before
    """
    try:
        with transaction.atomic(using="default"):
            return Approval.objects.create(
                verb=action, subject=subject, amount=amount, currency=currency, reason=reason, asked_by=by
            )
    except IntegrityError as error:
        raise AlreadyRequested(_g("This is already waiting for the approval of a second person.")) from error


@transaction.atomic(using="default")
def decide(*, approval: Approval, approve: bool, by: str, now: datetime) -> Approval:
    """
    Approve a request, which carries it out, or reject it.

    :raises SamePerson: if the person who requested it decides
    :raises AlreadyDecided: if somebody was faster
    """
    locked: Any = Approval.objects.select_for_update().get(pk=approval.pk)
    if locked.status != Status.WAITING:
        raise AlreadyDecided(_g("This is already %(status)s.") % {"status": locked.get_status_display()})
    if by == locked.asked_by:
        raise SamePerson(_g("A second person has to decide, because you requested this."))
    if approve:
        ACTIONS[locked.verb](locked, f"{by} for {locked.asked_by}"[:150], now)
    locked.status = Status.APPROVED if approve else Status.REJECTED
    locked.decided_by, locked.decided_at = by, now
    locked.save(update_fields=["status", "decided_by", "decided_at"])
    return locked
