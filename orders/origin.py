"""
What an order is made of that no event tells: whose it is, and what tells a repeated request for it from another one.

# Note [For nobody but us]: it travels with `order.created`, so that an order can be placed again as it was where the
database of orders was set back to a moment before it (`rebuilding.py`). Subscribers neither need it nor can read it: it
is encrypted, and is in no webhook.
"""

import json
from base64 import b64decode, b64encode
from dataclasses import astuple, dataclass
from typing import Self
from uuid import UUID

from common import encryption

from .models import Order

NAME = "origin"  # in the data of the event


@dataclass(frozen=True)
class Origin:
    """What no event tells of a new order."""

    principal: str
    fingerprint: str  # of the request, as bytes in base64, which are shorter
    hold_id: str
    capture: str

    @classmethod
    def of(cls, order: Order) -> Self:
        hold_id = order.hold_id.hex if order.hold_id else ""
        return cls(order.principal, b64encode(bytes.fromhex(order.fingerprint)).decode(), hold_id, order.capture)

    def seal(self) -> str:
        return encryption.encrypt(json.dumps(astuple(self), separators=(",", ":"), ensure_ascii=False))

    @classmethod
    def unseal(cls, sealed: str) -> Self:
        """
        Return what was sealed.

        :raises encryption.NotReadable: if it was sealed with a key that is not in ENCRYPTION_KEY
        """
        return cls(*json.loads(encryption.decrypt(sealed)))

    def apply(self, order: Order) -> None:
        """Let an order have this."""
        order.principal, order.capture = self.principal, self.capture
        order.fingerprint = b64decode(self.fingerprint).hex()
        order.hold_id = UUID(self.hold_id) if self.hold_id else None
