"""
The four-eyes rule: an action that a service does not allow to one person alone waits for a second one.

The service decides where that is so: see common/authority.py. What waits here is the action with all its values, and it
is performed by the same function as before, under the lock of the service, for the amount that was approved.
"""

import json
from datetime import datetime
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.core.serializers.json import DjangoJSONEncoder
from django.db import IntegrityError, router, transaction
from django.utils.translation import gettext as _g

from common.admin import conf, display
from common.admin.actions import Action, ActionCall, perform_once
from common.authority import Authority, NeedsSecondPerson
from common.errors import Refusal
from common.money import Money
from common.performed_actions import RequestIdReused
from orders_project.models import Approval

Status = Approval.Status


class AlreadyRequested(Refusal):
    """The same approval has already been requested."""

    code = "waits_for_approval"


class AlreadyDecided(Refusal):
    """The request has already been approved or rejected."""

    code = "already_decided"


class AmountChanged(Refusal):
    """The amount is another one than was requested."""

    code = "amount_changed"


class SamePerson(Refusal):
    """The person who requested it cannot decide."""

    code = "second_person_needed"


def request(*, model: Any, action: Action, call: ActionCall, needed: NeedsSecondPerson) -> str:
    """
    Have an action wait for approval; return what to tell the person who wanted it.

    :raises AlreadyRequested: if the same action on the same row waits already
    """
    values = json.loads(json.dumps({"values": call.values, "found": call.found}, cls=DjangoJSONEncoder))
    try:
        with transaction.atomic(using="default"):
            Approval.objects.create(
                verb=f"{model._meta.label_lower}.{action.name}", subject=str(call.row.pk), amount=needed.amount,
                currency=needed.currency, reason=call.values.get("reason", ""), asked_by=call.actor, call=values,
            )  # fmt: skip
    except IntegrityError as error:
        raise AlreadyRequested(_g("This is already waiting for the approval of a second person.")) from error
    return _g("A second person has to approve this. It is waiting under Approvals.")


@transaction.atomic(using="default")
def decide(*, approval: Approval, approve: bool, by: str, now: datetime) -> Approval:
    """
    Approve a request, which performs it, or reject it.

    It is performed under the number of the approval: after a crash between the two commits, approving it again does
    nothing more. To reject it takes that number too, so what has been performed, or is being, cannot be rejected.

    :raises SamePerson: if the person who requested it decides
    :raises AlreadyDecided: if somebody was faster, or was cut off before that was stored
    :raises Refusal: if the state, the version or the amount are no longer those that were approved
    """
    locked: Any = Approval.objects.select_for_update().get(pk=approval.pk)
    if locked.status != Status.WAITING:
        raise AlreadyDecided(_g("This is already %(status)s.") % {"status": locked.get_status_display()})
    if by == locked.asked_by:
        raise SamePerson(_g("A second person has to decide, because you requested this."))
    if approve:
        _carry_out(locked, by=by, now=now)
    else:
        _take_number(locked, now=now)
    locked.status = Status.APPROVED if approve else Status.REJECTED
    locked.decided_by, locked.decided_at = by, now
    locked.save(update_fields=["status", "decided_by", "decided_at"])
    return locked


def _carry_out(approval: Approval, *, by: str, now: datetime) -> None:
    model, action = action_of(approval)
    authority = Authority(
        f"{by} for {approval.asked_by}"[:150], is_staff=True, approved=Money(approval.amount, approval.currency)
    )
    values, found = approval.call["values"], approval.call["found"]
    call = ActionCall(model._base_manager.get(pk=approval.subject), values, authority, now, str(approval.pk), found)
    try:
        perform_once(action, call, model=model)
    except NeedsSecondPerson as other:
        raise AmountChanged(_g("The amount is no longer the one that was requested.")) from other
    except RequestIdReused as rejected:
        raise AlreadyDecided(_g("Rejecting this was cut off. Reject it again.")) from rejected


def _take_number(approval: Approval, *, now: datetime) -> None:
    model, _action = action_of(approval)
    performed = conf.performed_actions(model._meta.app_label)
    if performed is conf.performed_actions():  # whatever is performed here commits together with the decision
        return
    try:
        with transaction.atomic(using=router.db_for_write(model)):
            performed.first_time(approval.pk, fingerprint=Status.REJECTED, now=now)
    except RequestIdReused as done:
        raise AlreadyDecided(_g("This was carried out, but that was not stored. Approve it again.")) from done


def in_words(approval: Approval) -> str:
    """What a request is about: the action, the amount, and what it is done to."""
    amount = display.money_text(approval.amount, approval.currency)
    return f"{action_of(approval)[1].label}: {amount}, {approval.subject}"


def action_of(approval: Approval) -> tuple[Any, Action]:
    """The model and the action that an approval is about."""
    label, _, name = approval.verb.rpartition(".")
    model = apps.get_model(label)
    page: Any = admin.site.get_model_admin(model)
    return model, next(action for action in page.page_actions if action.name == name and not action.of_list)
