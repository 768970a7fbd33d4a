"""Correcting dead letters by people of the back office: the rule about money, under the lock of the dead letter."""

from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _g

from outbox import dead_letters
from outbox.corrections import NotCorrectable
from outbox.models import DeadLetter
from outbox.services import database_of

from .authority import Authority


def replay_corrected(
    *, dead_letter: DeadLetter, data: dict[str, Any], reason: str, by: Authority, now: datetime
) -> None:
    """
    Send the message of a dead letter with other data.

    Whoever writes an amount into a message moves that amount, so it takes the same authority.

    :raises OutboxError: if that is not possible: see `outbox.dead_letters.replay`; or if the amount is left out, which
        some messages take for all there is
    :raises NeedsSecondPerson: if the message names an amount above the limit of one person, or in no currency of ours
    """
    with transaction.atomic(using=database_of(dead_letter._meta.app_label)):
        dead_letters.replay(dead_letter, by=by.name, now=now, data=data, why=reason)
        amount, before = data.get("amount"), dead_letter.envelope().data.get("amount")
        if amount is not None:
            by.permit(abs(amount), str(data.get("currency", "")))
        elif before is not None:
            raise NotCorrectable(_g("The amount can't be left out."))
