"""Attempts to pay that a gateway has declined: kept for the payer and for operators, each once."""

from datetime import datetime

from .gateways.base import Answer
from .models import ROWS, Attempt, Payment


def keep(payment: Payment, said: Answer, *, now: datetime) -> None:
    """Keep the declined attempt that the gateway tells of, if it tells of one and it is not known yet."""
    if (attempt := said.attempt) is None:
        return
    row = Attempt(
        payment=payment,
        attempt_id=attempt.attempt_id[:100],
        code=attempt.code[:50],
        message=attempt.message[:500],
        at=attempt.at or now,
    )
    ROWS.run(ROWS.insert(row, or_nothing=True))
