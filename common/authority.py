"""
Who decides to move money: the rule for people, which the service that moves it asks under the lock that guards it.

A client acts within its own right. A person of the staff, whatever way they come in, gives a reason; and what is worth
more than `REFUND_APPROVAL_ABOVE`, or than the limit of its currency in `REFUND_APPROVAL_LIMITS`, takes a second person,
who has approved exactly this amount.
"""

from dataclasses import dataclass
from typing import Self

from django.conf import settings
from django.utils.translation import gettext as _g

from . import money
from .errors import Refusal
from .money import Money
from .principal import Principal


class NeedsSecondPerson(Refusal):
    """One person alone may not move this amount."""

    code = "second_person_needed"

    def __init__(self, amount: int, currency: str) -> None:
        super().__init__(
            _g("%(amount)s is above the limit: a second person has to approve this in the back office.")
            % {"amount": money.text(amount, currency=currency)}
        )
        self.amount, self.currency = amount, currency


class ReasonMissing(Refusal):
    """A person of the staff has given no reason."""

    code = "reason_missing"


@dataclass(frozen=True)
class Authority:
    """
    Who asks a service to move money, by the name that is recorded, and what a second person has approved.

    Without a name it is the system itself. Only `is_staff` is limited.
    """

    name: str = ""
    is_staff: bool = False
    approved: Money | None = None

    @classmethod
    def of(cls, principal: Principal) -> Self:
        """The authority of a caller of the API."""
        return cls(principal.name, is_staff=principal.is_staff)

    def justify(self, reason: str) -> None:
        """
        Check that there is a reason where one is needed.

        :raises ReasonMissing: if a person of the staff gives none
        """
        if self.is_staff and not reason.strip():
            raise ReasonMissing(_g("Give a reason."), errors={"reason": [_g("Give a reason.")]})

    def permit(self, amount: int, currency: str) -> None:
        """
        Check that this amount may be moved. Call it under the lock that guards the amount and the state.

        :raises NeedsSecondPerson: if a person of the staff alone moves more than the limit
        """
        if self.is_staff and amount > limit(currency) and self.approved != Money(amount, currency):
            raise NeedsSecondPerson(amount, currency)


SYSTEM = Authority()


def limit(currency: str) -> int:
    """The amount, in minor units, above which two persons decide; nothing at all in a currency that is not ours."""
    if currency not in money.EXPONENTS:
        return 0
    whole = settings.REFUND_APPROVAL_LIMITS.get(currency, settings.REFUND_APPROVAL_ABOVE)
    return money.minor_units(whole, currency=currency)
