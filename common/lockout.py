"""
Guessing passwords and secrets: how often an address may try, and when a name is locked at an address.

Counted like every rate limit, so that all processes count together, nothing that somebody typed is stored, and what is
counted disappears by itself.

# Note [Why both]: the limit of an address is counted before anything is hashed, so that one address can use only so
much of the processor with a new name each time. The failures of a name are counted at an address only: otherwise
anybody could lock anybody out.
"""

import logging
from dataclasses import dataclass

from django.conf import settings
from django.utils.translation import gettext as _g
from prometheus_client import Counter

from . import rate_limits
from .addresses import source_of
from .errors import Refusal
from .rate_limits import RateLimit, Standing

logger = logging.getLogger(__name__)

MAX_FAILURES = 5
FAILURES_WITHIN = 900  # seconds

FAILURES = Counter("credential_failures", "Wrong passwords and secrets that were tried", ["kind"])
REFUSALS = Counter("credential_refusals", "Attempts that were refused unseen, because there were too many", ["kind"])


class LockedOut(Refusal):
    """There were too many attempts with wrong credentials, or too many attempts from one address."""

    code = "locked_out"

    def __init__(self, standing: Standing) -> None:
        super().__init__(_g("Too many attempts. Try again later."), extra={"retry_after": standing.reset})
        self.retry_after = standing.reset


@dataclass(frozen=True)
class Attempt:
    """One attempt to prove to be somebody: `kind` is what is shown (password, client_secret, …), `name` of whom."""

    kind: str
    name: str
    address: str

    @property
    def _failures(self) -> RateLimit:
        key = f"{self.kind}\n{source_of(self.address)}\n{self.name}"
        return RateLimit("failures", key, MAX_FAILURES, FAILURES_WITHIN)

    def admit(self) -> None:
        """
        Count the attempt. Call it before the credentials are looked at.

        :raises LockedOut: if the name is locked at this address, or the address has tried too often
        """
        self.refuse_if_locked()
        limit = RateLimit("logins", source_of(self.address), settings.RATE_LIMIT_LOGINS_PER_MINUTE)
        full = rate_limits.count_against([limit])[1] if limit.maximum else None
        if full is not None:
            self._refuse(full)

    def refuse_if_locked(self) -> None:
        """
        Let the attempt through if it costs nothing to look at the credentials.

        :raises LockedOut: if the name is locked at this address
        """
        standing = rate_limits.standing_of(self._failures)
        if not standing.remaining:
            self._refuse(standing)

    def _refuse(self, full: Standing) -> None:
        REFUSALS.labels(self.kind).inc()
        raise LockedOut(full)

    def failed(self, *, known: bool) -> None:
        """The credentials are wrong. The name is logged only if it is `known`: people mistake the field for another."""
        FAILURES.labels(self.kind).inc()
        _counted, full = rate_limits.count_against([self._failures])
        name = self.name if known else "an unknown name"
        logger.warning("Wrong %s for %s from %s.", self.kind, name, self.address)
        if full is None and not rate_limits.standing_of(self._failures).remaining:
            logger.warning("%s is locked for %s s at %s.", name, FAILURES_WITHIN, source_of(self.address))

    def succeeded(self) -> None:
        """The credentials are right. Earlier failures of this name at this address are forgotten."""
        logger.info("Right %s for %s from %s.", self.kind, self.name, self.address)
        rate_limits.forget(self._failures)
