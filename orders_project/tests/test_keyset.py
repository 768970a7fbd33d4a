"""Keyset paging: keys survive their cursor, and whatever else arrives as a cursor is refused."""

import base64
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from common import keyset
from orders.models import Order

ORDERING = ("-created_at", "-order_id")


def test_a_key_survives_its_cursor():
    key = [datetime(2026, 5, 4, 3, 2, 1, 987654, tzinfo=UTC), str(uuid4())]
    assert keyset.decode(keyset.encode(key), Order, ORDERING) == key


@pytest.mark.parametrize(
    "cursor",
    [
        "", "?", "WzFd", "e30=", "bnVsbA==", "A" * 401, "Ü", keyset.encode(["yesterday", "x"]), keyset.encode(["x"]),
        keyset.encode([datetime(2026, 1, 1, tzinfo=UTC), "a\nb"]), base64.b64encode(b"[" * 200).decode(),
    ],
)  # fmt: skip
def test_anything_else_is_refused(cursor):
    with pytest.raises(ValueError):
        keyset.decode(cursor, Order, ORDERING)
