"""Indexes that every row pays for and that no query needs: there are none in the tables that each order writes to."""

from typing import NamedTuple

import pytest
from django.conf import settings
from django.db import connections

from benchmarks.growth import ROWS

pytestmark = pytest.mark.django_db

OF_NO_ORDER = {"processing_product", "payments_account"}
# Without a condition or an expression; the operator classes tell an index for LIKE from another one.
INDEXES = """
SELECT relname, indrelid::regclass::text, indkey::int[], indclass::oid[]::text[], indisunique
FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE indpred IS NULL AND indexprs IS NULL AND indrelid = ANY (%s::text[]::regclass[])
"""


class Index(NamedTuple):
    """An index of a table: the numbers of its columns, and how each is compared."""

    name: str
    table: str
    columns: list[int]
    classes: list[str]
    is_unique: bool

    def begins(self, other: "Index") -> bool:
        """Whether the other one begins with the same columns, so that it answers what this one does."""
        number = len(self.columns)
        mine, its = (self.table, self.columns), (other.table, other.columns[:number])
        return mine == its and self.classes == other.classes[:number]


@pytest.fixture
def indexes() -> list[Index]:
    found = []
    for service in settings.SERVICES:
        tables = [table for table in ROWS.keys() - OF_NO_ORDER if table.startswith((f"{service}_", "outbox_"))]
        with connections[service].cursor() as cursor:
            cursor.execute(INDEXES, [tables])
            found += [Index(name, f"{service}.{table}", *rest) for name, table, *rest in cursor.fetchall()]
    return found


def test_no_index_is_the_beginning_of_another_one(indexes: list[Index]) -> None:
    needless = [
        one.name
        for one in indexes
        if not one.is_unique and any(one.begins(other) for other in indexes if other is not one)
    ]
    assert needless == []


def test_no_column_has_two_indexes(indexes: list[Index]) -> None:
    """As Django gives a text: one to compare it, and one to find what it begins with."""
    alone = [(one.table, one.columns) for one in indexes if len(one.columns) == 1]
    assert sorted(one for one in alone if alone.count(one) > 1) == []
