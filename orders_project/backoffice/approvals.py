"""Two pairs of eyes: what gives back more than a set amount waits until a second person approves."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _g

from common import money
from common.errors import Refusal
from orders import repair as rescue
from orders_project.models import Approval
from payments import receipts

Status = Approval.Status


class WaitsAlready(Refusal):
    """Somebody has asked for the same before."""

    code = "waits_for_approval"


class Decided(Refusal):
    """It has been approved or rejected already."""

    code = "already_decided"


class SamePerson(Refusal):
    """Who asked can't approve."""

    code = "second_person_needed"


def _compensate(approval: Approval, actor: str, now: datetime) -> None:
    rescue.turn_back(order_id=approval.subject, now=now, actor=actor, reason=approval.reason)


def _refund_webhook(approval: Approval, actor: str, now: datetime) -> None:
    receipts.refund(receipt_id=approval.subject, actor=actor)


# What can wait, by the name it is stored under. Each may be carried out again harmlessly: should the approval be lost
# in a crash after the call, it is approved once more and nothing more happens.
DEEDS: dict[str, Callable[[Approval, str, datetime], None]] = {
    "compensate_order": _compensate,
    "refund_webhook": _refund_webhook,
}


def is_needed(amount: int | None, currency: str) -> bool:
    """Whether giving back this much takes a second person."""
    if not amount:
        return False
    limit = money.minor_units(settings.REFUND_APPROVAL_ABOVE, currency=currency)
    return amount > limit


def ask(*, verb: str, subject: str, amount: int, currency: str, reason: str, by: str) -> Approval:
    """
    Ask for a second person.

    :raises WaitsAlready: if that has been asked for
    """
    try:
        with transaction.atomic(using="default"):
            return Approval.objects.create(
                verb=verb, subject=subject, amount=amount, currency=currency, reason=reason, asked_by=by
            )
    except IntegrityError as error:
        raise WaitsAlready(_g("This waits for a second person already.")) from error


@transaction.atomic(using="default")
def decide(*, approval: Approval, approve: bool, by: str, now: datetime) -> Approval:
    """
    Approve, and so have it carried out, or reject.

    :raises SamePerson: if it is approved by who asked for it
    :raises Decided: if somebody was faster
    """
    locked: Any = Approval.objects.select_for_update().get(pk=approval.pk)
    if locked.status != Status.WAITING:
        raise Decided(_g("It is %(status)s already.") % {"status": locked.get_status_display()})
    if by == locked.asked_by:
        raise SamePerson(_g("A second person has to decide: you asked for it."))
    if approve:
        DEEDS[locked.verb](locked, f"{by} for {locked.asked_by}"[:150], now)
    locked.status = Status.APPROVED if approve else Status.REJECTED
    locked.decided_by, locked.decided_at = by, now
    locked.save(update_fields=["status", "decided_by", "decided_at"])
    return locked
