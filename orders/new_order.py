"""What is asked for when an order is placed."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import ClassVar

from django.conf import settings

from .models import OrderLine
from .pricing import Line


@dataclass(frozen=True)
class NewOrder:
    """An order to be placed."""

    lines: tuple[Line, ...]
    order_id: str | None = None
    customer_id: str = ""
    user_id: str = ""
    user_email: str = ""
    description: str = ""
    payment_method: str = ""
    capture: str = ""  # automatic
    principal: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    currency: str = ""  # the default one
    total: int | None = None  # what the client takes the sum of the lines to be

    _ADDED: ClassVar = frozenset({"metadata", "currency", "total", "capture"})  # by later releases

    @property
    def fingerprint(self) -> str:
        """What tells a repeated request from another one under the same id."""
        # Note [Fingerprints outlive releases]: what a later release has added counts only where it is given. Otherwise
        # a request that is repeated after the deploy would be taken for another one.
        said = {name: value for name, value in vars(self).items() if name not in self._ADDED or value}
        if self.currency == settings.CURRENCY:
            del said["currency"]
        said["lines"] = [vars(line).copy() for line in self.lines]
        for line in said["lines"]:
            if line["kind"] == OrderLine.Kind.ITEM:
                del line["kind"], line["of"]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
