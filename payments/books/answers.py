"""What a gateway has answered when it was asked, kept as the body of a receipt, like a webhook that says the same."""

import json
from dataclasses import fields
from datetime import datetime
from typing import Any

from ..gateways.base import Answer, BadEvent, DisputeAnswer, DisputeStatus, RefundAnswer, RefundStatus, Status

Content = Answer | RefundAnswer | DisputeAnswer
KINDS: dict[str, tuple[type[Content], type]] = {
    "payment": (Answer, Status),
    "refund": (RefundAnswer, RefundStatus),
    "dispute": (DisputeAnswer, DisputeStatus),
}
NOT_KEPT = ("attempt", "client_secret", "next_action")  # what only matters to whoever pays
TIMES = ("authorized_until", "respond_by")
HEADER = {"asked": "yes"}  # no webhook has it: of its headers only those that are named there are kept


def dump(about: Content) -> bytes:
    """Return an answer as bytes; equal answers as equal ones."""
    kind = next(name for name, (type_, _status) in KINDS.items() if isinstance(about, type_))
    values = {field.name: getattr(about, field.name) for field in fields(about) if field.name not in NOT_KEPT}
    return json.dumps({"about": kind, **values}, default=_text, sort_keys=True).encode()


def load(body: bytes) -> Content:
    """
    Return the answer that `dump` has made bytes of.

    :raises BadEvent: if another release has, and it cannot be read
    """
    try:
        values = json.loads(body)
        type_, status = KINDS[values.pop("about")]
        values["status"] = status(values["status"])
        for name in TIMES:
            if values.get(name):
                values[name] = datetime.fromisoformat(values[name])
        return type_(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise BadEvent(f"The answer cannot be read: {error}") from error


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
