"""Operations of migrations that make nobody wait: what they leave, forwards, backwards and after a failure."""

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.db import IntegrityError, connections, models
from django.db.migrations.operations import AlterField, CreateModel
from django.db.migrations.state import ProjectState

from orders_project.embedded import processes
from outbox import online_ddl
from outbox.online_ddl import (
    AddFieldNotValid,
    AddUniqueOnline,
    DeleteOnline,
    RemoveFieldIndexOnline,
    RemoveLikeIndexOnline,
    RemoveUniqueOnline,
    UpdateOnline,
)

pytestmark = pytest.mark.django_db(transaction=True, databases=["orders"])

UNIQUE = models.UniqueConstraint(fields=["name"], name="one_thing_per_name")


class Table:
    """A table `orders_thing` with rows 1 to 10, and the state of its model."""

    def __init__(self) -> None:
        self.state = ProjectState()
        fields: Any = [("id", models.IntegerField(primary_key=True)), ("name", models.CharField(max_length=9))]
        self.run(CreateModel("Thing", fields))
        self.sql("INSERT INTO orders_thing SELECT n, 'n' || n FROM generate_series(1, 10) n")

    def run(self, operation: Any, *, backwards: bool = False) -> None:
        after = self.state.clone()
        operation.state_forwards("orders", after)
        with connections["orders"].schema_editor(atomic=False) as editor:
            if backwards:
                operation.database_backwards("orders", editor, after, self.state)
            else:
                operation.database_forwards("orders", editor, self.state, after)
        if not backwards:
            self.state = after

    def sql(self, statement: str) -> list[Any]:
        with connections["orders"].cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def index(self) -> list[Any]:
        return self.sql("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('one_thing_per_name')")


@pytest.fixture
def table() -> Iterator[Table]:
    table = Table()
    yield table
    table.sql("DROP TABLE orders_thing")


@pytest.fixture
def locked() -> Iterator[psycopg.Connection[Any]]:
    """Somebody else, who has locked the row 5."""
    parameters = connections["orders"].get_connection_params()
    known = ("host", "port", "dbname", "user", "password")
    with psycopg.connect(**{name: parameters[name] for name in known if name in parameters}) as other:
        yield other
        other.rollback()


class TestAUniqueConstraint:
    def test_that_fails_is_made_anew(self, table: Table) -> None:
        table.sql("UPDATE orders_thing SET name = 'n1' WHERE id = 2")
        with pytest.raises(IntegrityError):
            table.run(AddUniqueOnline("thing", UNIQUE))
        assert table.index() == [(False,)]
        table.sql("UPDATE orders_thing SET name = 'n2' WHERE id = 2")
        table.run(AddUniqueOnline("thing", UNIQUE))
        assert table.index() == [(True,)]
        with pytest.raises(IntegrityError):
            table.sql("INSERT INTO orders_thing VALUES (11, 'n1')")

    def test_can_be_added_and_removed_twice_and_back_again(self, table: Table) -> None:
        before = table.state
        add, remove = AddUniqueOnline("thing", UNIQUE), RemoveUniqueOnline("thing", UNIQUE.name)
        for _ in range(2):
            table.state = before
            table.run(add)
        with_it = table.state
        for _ in range(2):
            table.state = with_it
            table.run(remove)
        assert table.index() == []
        table.state = with_it
        table.run(remove, backwards=True)
        assert table.index() == [(True,)]
        table.state = before
        table.run(add, backwards=True)
        assert table.index() == []

    def test_that_is_deferrable_is_refused(self) -> None:
        with pytest.raises(ValueError, match="cannot be deferred"):
            AddUniqueOnline(
                "thing", models.UniqueConstraint(fields=["name"], name="x", deferrable=models.Deferrable.DEFERRED)
            )


class TestTheIndexesOfAText:
    FIELD = models.CharField(max_length=9, db_index=True)
    WITHOUT = models.CharField(max_length=9)

    @pytest.mark.parametrize("is_killed", [False, True])
    def test_are_dropped_and_made_again(self, table: Table, is_killed: bool) -> None:
        table.run(AlterField("thing", "name", self.FIELD))
        both = self.definitions(table)
        assert [how.partition("USING ")[2] for _name, how in both] == [
            "btree (id)", "btree (name)", "btree (name varchar_pattern_ops)"]  # fmt: skip
        with_them, remove = table.state, RemoveFieldIndexOnline("thing", "name", self.WITHOUT)
        table.run(remove)
        if is_killed:  # after the indexes were dropped, and before that was noted
            table.state = with_them
            table.run(remove)
        assert self.definitions(table) == both[:1]
        table.state = with_them
        table.run(remove, backwards=True)
        assert self.definitions(table) == both

    def test_are_one_without_the_one_for_like(self, table: Table) -> None:
        table.run(AlterField("thing", "name", self.FIELD))
        both = self.definitions(table)
        remove = RemoveLikeIndexOnline("thing", "name")
        for _ in range(2):
            table.run(remove)
        assert self.definitions(table) == both[:2]
        for _ in range(2):
            table.run(remove, backwards=True)
        assert self.definitions(table) == both

    def definitions(self, table: Table) -> list[Any]:
        return table.sql(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'orders_thing' ORDER BY length(indexdef)"
        )


class TestRowsInBatches:
    UPDATE: dict[str, Any] = {"to": "name = 'new'", "where": "name LIKE 'n%' AND name <> 'new'", "batch": 3}

    def test_pass_over_a_row_that_is_locked_and_come_back_to_it(
        self, table: Table, locked: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(online_ddl, "LONGEST_PAUSE", 0.05)
        locked.execute("SELECT FROM orders_thing WHERE id = 5 FOR UPDATE")

        def update() -> None:
            try:
                table.run(UpdateOnline("orders_thing", **self.UPDATE, rounds=10_000))
            finally:
                connections.close_all()

        updating = threading.Thread(target=update)
        updating.start()
        left = "SELECT array_agg(id) FROM orders_thing WHERE name <> 'new'"
        processes.wait_until(lambda: table.sql(left) == [([5],)], timeout=300)
        locked.rollback()
        updating.join()
        assert table.sql(left) == [(None,)]

    def test_that_stay_locked_are_named(self, table: Table, locked: psycopg.Connection[Any]) -> None:
        locked.execute("SELECT FROM orders_thing WHERE id = 5 FOR UPDATE")
        with pytest.raises(online_ddl.RowsStayLocked, match="rows of orders_thing where true are left after 2 rounds"):
            table.run(DeleteOnline("orders_thing", rounds=2))
        assert table.sql("SELECT id FROM orders_thing") == [(5,)]

    def test_of_a_table_that_does_not_exist_are_none(self, table: Table) -> None:
        table.run(DeleteOnline("orders_nothing"))


def test_a_check_of_a_new_field_holds_for_new_rows_until_it_is_validated(table: Table) -> None:
    table.run(AddFieldNotValid("thing", "number", models.PositiveIntegerField(db_default=0)))
    assert table.sql("SELECT conname, convalidated FROM pg_constraint WHERE contype = 'c'"
                     " AND conrelid = 'orders_thing'::regclass") == [("orders_thing_number_check", False)]  # fmt: skip
    with pytest.raises(IntegrityError):
        table.sql("INSERT INTO orders_thing VALUES (11, 'n11', -1)")
    table.sql("ALTER TABLE orders_thing VALIDATE CONSTRAINT orders_thing_number_check")
