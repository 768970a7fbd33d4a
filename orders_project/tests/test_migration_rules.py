"""Migrations stop nobody: those of this release keep to the rules, and each rule finds what breaks it."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.postgres.operations import AddConstraintNotValid, AddIndexConcurrently, ValidateConstraint
from django.db import migrations, models
from django.db.migrations.state import ProjectState
from django.db.models.functions import Now, Random

from orders_project import migration_rules
from outbox.online_ddl import AddFieldNotValid, AddIndexOnline, AddUniqueOnline, RemoveIndexOnline, UpdateOnline

pytestmark = pytest.mark.django_db

A_CHECK = models.CheckConstraint(condition=models.Q(total__gte=1), name="order_costs_something")
AN_INDEX = models.Index(fields=["fail_reason"], name="order_failed")
UNIQUE = models.UniqueConstraint(fields=["hold_id"], name="one_order_per_hold")


@pytest.fixture(scope="module")
def state() -> ProjectState:
    """The models of orders in the last release."""
    models_ = migration_rules.since_release()[0].models
    return ProjectState({key: model for key, model in models_.items() if key[0] in ("orders", "outbox")})


def broken(state: ProjectState, *migrations_: list[Any], atomic: bool = True) -> list[migration_rules.Finding]:
    """What migrations of orders with these operations break."""
    made = []
    for number, operations in enumerate(migrations_):
        migration: Any = migrations.Migration(f"0100_{number}", "orders")
        migration.operations, migration.atomic = operations, atomic
        made.append(migration)
    return list(migration_rules.findings(state.clone(), made))


def test_the_migrations_since_the_last_release_keep_to_the_rules() -> None:
    state, since = migration_rules.since_release()
    assert [str(finding) for finding in migration_rules.findings(state, since)] == []


def test_every_app_of_ours_is_recorded_with_the_release() -> None:
    assert {app for app, _ in migration_rules.released()} <= {
        line.split()[0] for line in migration_rules.last_migrations().splitlines()
    }
    assert ("orders", "0008_answers_to_the_letter") in migration_rules.released()


def bad() -> Iterator[Any]:
    """Operations that each break one rule."""
    order: dict[str, Any] = {"model_name": "order"}
    alter, add, sql = migrations.AlterField, migrations.AddField, migrations.RunSQL
    yield "index", migrations.AddIndex(**order, index=AN_INDEX)
    yield "index", sql("/* quick */ create unique index x on orders_order (total)")
    yield "index", alter(**order, name="hold_id", field=models.UUIDField(null=True, db_index=True))
    yield "index dropped", migrations.RemoveIndex(**order, name="order_newest")
    yield "unique", migrations.AddConstraint(**order, constraint=UNIQUE)
    yield "unique", add(**order, name="a", field=models.CharField(max_length=9, null=True, unique=True))
    yield "constraint", migrations.AddConstraint(**order, constraint=A_CHECK)
    yield "unique", sql("ALTER TABLE orders_order ADD UNIQUE (total)")
    yield "constraint", sql("alter table only orders_order add check (total > 1)")
    yield "constraint", sql("ALTER TABLE orders_order ADD CONSTRAINT x FOREIGN KEY (a) REFERENCES orders_order (b)")
    yield "checked column", add(**order, name="a", field=models.PositiveIntegerField(null=True))
    yield "not null", alter(**order, name="hold_id", field=models.UUIDField())
    yield "default", add(**order, name="a", field=models.CharField(max_length=9, default="x"))
    yield "default", sql("ALTER TABLE orders_order ADD COLUMN a text NOT NULL")
    yield "rewrite", add(**order, name="a", field=models.FloatField(db_default=Random()))
    yield "default", sql("ALTER TABLE orders_order ADD a text NOT NULL")
    yield "rewrite", sql("ALTER TABLE orders_order ADD COLUMN a uuid DEFAULT gen_random_uuid()")
    yield "rewrite", sql("ALTER TABLE orders_order ADD COLUMN a bigserial")
    yield "type", alter(**order, name="version", field=models.BigIntegerField(default=1))
    yield "type", alter(**order, name="payment_id", field=models.CharField(max_length=20, blank=True))
    yield "type", sql('ALTER TABLE "orders_order" ALTER version SET DATA TYPE bigint')
    yield "rename", migrations.RenameField(**order, old_name="hold_id", new_name="stock")
    yield "rename", migrations.RenameModel("Order", "Purchase")
    yield "drop", migrations.RemoveField(**order, name="hold_id")
    yield "drop", migrations.DeleteModel("IdempotencyKey")
    yield "drop", sql("ALTER TABLE orders_order ADD a int, DROP hold_id")
    yield "lock", sql("TRUNCATE orders_idempotencykey")
    yield "lock", sql("DO $$ BEGIN EXECUTE 'TRUNCATE orders_idempotencykey'; END $$")
    yield "rows", sql("UPDATE orders_order SET currency = 'USD'")
    yield "rows", sql("SELECT 1; DELETE FROM orders_idempotencykey")
    yield (
        "tables",
        sql(
            "ALTER TABLE orders_order ADD a int;CREATE TRIGGER x BEFORE INSERT ON orders_orderline EXECUTE FUNCTION y()"
        ),
    )


@pytest.mark.parametrize(("rule", "operation"), [*bad()])
def test_a_rule_finds_what_breaks_it(state: ProjectState, rule: str, operation: Any) -> None:
    found = broken(state, [operation])
    assert rule in {finding.rule.name for finding in found}
    text = next(str(finding) for finding in found if finding.rule.name == rule)
    assert text.startswith(f"orders.0100_0: {operation.describe()}: ")
    assert next(finding.rule.instead for finding in found if finding.rule.name == rule) in text


def test_every_rule_is_broken_by_one_of_these() -> None:
    assert {rule.name for rule in migration_rules.RULES} <= {case[0] for case in bad()}


@pytest.mark.parametrize(
    ("rule", "atomic", "operations"),
    [
        (
            "python",
            True,
            [migrations.RunPython(migrations.RunPython.noop), migrations.RunSQL("ALTER TABLE orders_order ADD a int")],
        ),
        ("python", False, [migrations.RunPython(migrations.RunPython.noop), AddIndexOnline("order", AN_INDEX)]),
        ("resumed", False, [AddIndexConcurrently("order", AN_INDEX)]),
        ("resumed", False, [migrations.RunSQL("ALTER TABLE orders_order ADD a int")]),
        ("validated", True, [AddConstraintNotValid("order", A_CHECK), ValidateConstraint("order", A_CHECK.name)]),
    ],
)
def test_what_must_not_be_done_together(state: ProjectState, rule: str, atomic: bool, operations: Any) -> None:
    assert {finding.rule.name for finding in broken(state, operations, atomic=atomic)} == {rule}


def test_what_to_write_instead_is_accepted(state: ProjectState) -> None:
    order: dict[str, Any] = {"model_name": "order"}
    first = [
        migrations.AddField(**order, name="a", field=models.CharField(max_length=9, default="", db_default="")),
        migrations.AddField(**order, name="b", field=models.DateTimeField(db_default=Now())),
        AddFieldNotValid(**order, name="c", field=models.PositiveIntegerField(db_default=0)),
        migrations.AlterField(**order, name="payment_id", field=models.CharField(max_length=200, blank=True)),
        migrations.AlterField(**order, name="description", field=models.TextField(blank=True)),
        AddConstraintNotValid(**order, constraint=A_CHECK),
        migrations.SeparateDatabaseAndState(state_operations=[migrations.RemoveField(**order, name="hold_id")]),
    ]
    assert broken(state, first) == []
    online = [
        AddIndexOnline(**order, index=AN_INDEX),
        AddUniqueOnline(**order, constraint=UNIQUE),
        RemoveIndexOnline(**order, name="order_newest"),
        ValidateConstraint(**order, name="orders_order_total_check"),
        UpdateOnline("orders_order", key="order_id", to="currency = 'EUR'", where="currency = 'DEM'"),
    ]
    assert broken(state, online, atomic=False) == []


def test_a_table_that_is_new_is_free(state: ProjectState) -> None:
    table = [
        migrations.CreateModel("Coupon", [("code", models.CharField(max_length=9, primary_key=True))]),
        migrations.AddField("coupon", "percent", models.PositiveIntegerField(default=1)),
        migrations.AddIndex("coupon", models.Index(fields=["percent"], name="coupon_percent")),
    ]
    assert broken(state, table, [migrations.RenameField("coupon", "percent", "share")]) == []


def test_what_the_release_has_left_in_the_database_alone_may_be_dropped(state: ProjectState) -> None:
    unused = state.clone()
    unused.remove_field("orders", "order", "hold_id")
    drop = [migrations.RunSQL("ALTER TABLE orders_order DROP COLUMN hold_id")]
    assert [finding.rule.name for finding in broken(state, drop)] == ["drop"]
    assert broken(unused, drop) == []
