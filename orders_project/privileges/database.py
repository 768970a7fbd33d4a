"""
The roles of the databases. Migrations are run by the owner of a database; every other process has a role that can
neither create nor change tables, nor switch off triggers, and that touches only the tables named here.

The deployment creates the roles and grants all this after each migration: see docs/security.md.
"""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.db import models, router
from django.db.migrations.recorder import MigrationRecorder
from psycopg import sql

READ = "SELECT"
ADD = "SELECT, INSERT"  # append-only
KEEP = "SELECT, INSERT, UPDATE"
ALL = "SELECT, INSERT, UPDATE, DELETE"
SCHEMA = sql.Identifier("public")
POLICIES = """
SELECT polname, polcmd::text, polroles::text, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
FROM pg_policy WHERE polrelid = %s::regclass
UNION ALL
SELECT 'row level security', relrowsecurity::text, NULL, NULL, NULL FROM pg_class WHERE oid = %s::regclass
"""

# What the processes of a service do with its tables: by model, or by app for those that are not ours.
OUTBOX = {
    "outbox.OutgoingMessage": ALL,
    "outbox.IncomingMessage": ALL,
    "outbox.DeadLetter": ALL,
    "outbox.DeadLetterAction": f"{ADD}, UPDATE (detail)",
    "outbox.StartedMessage": ALL,
}
TABLES: dict[str, dict[str, str]] = {
    "default": {
        "admin": ALL,
        "auth": ALL,
        "contenttypes": ADD,
        "oauth2_provider": ALL,
        "otp_totp": ALL,
        "sessions": ALL,
        "orders_project.Approval": KEEP,
        "orders_project.BulkRow": ALL,
        "orders_project.BulkRun": KEEP,
        "orders_project.Client": ALL,
        "orders_project.Erasure": KEEP,
        "orders_project.PerformedAction": ALL,
        "orders_project.SavedFilter": ALL,
    },
    "orders": OUTBOX
    | {
        # What is archived goes, and comes back; names are erased. Triggers see that nothing else changes.
        "orders.ArchivedHistory": f"{ADD}, UPDATE (document), DELETE",
        "orders.IdempotencyKey": ALL,
        "orders.LatestWrite": KEEP,
        "orders.Order": KEEP,
        "orders.OrderEvent": f"{ADD}, UPDATE (data), DELETE",
        "orders.OrderLine": ADD,
        "orders.PerformedAction": ALL,
        "orders.Refund": KEEP,
        "orders.WebhookAttempt": f"{ADD}, UPDATE (response, error), DELETE",
        "orders.WebhookDelivery": ALL,
        "orders.WebhookEndpoint": ALL,
        "orders.WebhookSecret": ALL,
    },
    "payments": OUTBOX
    | {
        "payments.Account": KEEP,
        "payments.Attempt": f"{ADD}, UPDATE (message)",  # to erase names, as their triggers allow
        "payments.Difference": KEEP,
        "payments.Dispute": KEEP,
        "payments.Entry": f"{ADD}, UPDATE (reason)",
        "payments.GatewayTransaction": KEEP,
        "payments.IdempotencyKey": ALL,
        "payments.LatestWrite": KEEP,
        "payments.Payment": KEEP,
        "payments.PerformedAction": ALL,
        "payments.Reconciliation": KEEP,
        "payments.Refund": KEEP,
        "payments.WebhookReceipt": KEEP,
    },
    "processing": OUTBOX
    | {
        "processing.Hold": KEEP,
        "processing.HoldLine": ADD,
        "processing.LatestWrite": KEEP,
        "processing.PerformedAction": ALL,
        "processing.Processing": ADD,
        "processing.Product": KEEP,
        "processing.ProductPrice": ALL,
        "processing.StockMovement": f"{ADD}, UPDATE (reason)",
    },
}


SEQUENCES = {"orders.Order": "orders_order_number"}  # what rows of a model draw numbers from, besides their keys


# What whoever may delete rows of a model may call, besides.
FUNCTIONS = {
    "orders.ArchivedHistory": ("orders_archive_month(date)",),
    "outbox.IncomingMessage": ("outbox_make_days(text, date)", "outbox_drop_day(text, text, uuid[])"),
}


@dataclass(frozen=True)
class Rows:
    """Which rows of a table a role sees, which it may change or delete, and what it may write: SQL conditions."""

    visible: str = "true"
    changed: str = "true"
    written: str = "true"


@dataclass(frozen=True)
class Role:
    """A role of one database: for which processes it is, and its privileges by model or app."""

    name: str
    database: str
    used_by: str
    tables: Mapping[str, str]
    rows: Mapping[str, Rows] = field(default_factory=dict)


ROLES: tuple[Role, ...] = (
    Role("back_office_app", "default", "back-office", TABLES["default"]),
    Role("orders_app", "orders", "orders-web, grpc, orders-worker, orders-relay, back-office", TABLES["orders"]),
    Role("payments_app", "payments", "payments-web, payments-worker, payments-relay, back-office", TABLES["payments"]),
    Role(
        "processing_app",
        "processing",
        "processing-web, processing-worker, processing-relay, back-office",
        TABLES["processing"],
    ),
    # It calls whatever addresses strangers have registered, so it can post nothing but another try.
    Role(
        "orders_webhooks",
        "orders",
        "webhooks-worker",
        {
            "orders.WebhookAttempt": ADD,
            "orders.WebhookDelivery": "SELECT, UPDATE",
            "orders.WebhookEndpoint": "SELECT, UPDATE (is_active, disabled_because)",
            "orders.WebhookSecret": READ,
            "outbox.OutgoingMessage": "INSERT",
            "outbox.IncomingMessage": ADD,
            "outbox.DeadLetter": ADD,
            "outbox.StartedMessage": ALL,
        },
        rows={
            "outbox.OutgoingMessage": Rows("false", "false", """type = 'orders.deliver_webhook' AND "to" = 'orders'"""),
            "outbox.DeadLetter": Rows(written="type = 'orders.deliver_webhook'"),
        },
    ),
    # The calls to other services' databases: stock is held while the customer waits, and a payment is shown.
    Role(
        "orders_holding",
        "processing",
        "orders-web, grpc",
        {
            "processing.Product": "SELECT, UPDATE (available, held, updated_at)",
            "processing.ProductPrice": READ,
            "processing.Hold": "SELECT, INSERT, UPDATE (status, ended_at, expires_at)",
            "processing.HoldLine": ADD,
            "processing.StockMovement": "INSERT",
        },
        rows={
            "processing.Hold": Rows("true", "status = 'held'", "status IN ('held', 'released')"),
            "processing.StockMovement": Rows("false", "false", "kind IN ('held', 'released')"),
        },
    ),
    Role(
        "orders_reading",
        "payments",
        "orders-web",
        {
            "payments.Attempt": READ,
            "payments.Entry": "SELECT (order_id, kind, amount)",
            "payments.Payment": READ,
        },
    ),
)


def models_of(database: str) -> list[type[models.Model]]:
    """Return the models that have a table in a database."""
    return [
        model
        for app in apps.get_app_configs()
        if router.allow_migrate(database, app.label)
        for model in app.get_models(include_auto_created=True)
        if model._meta.managed and not model._meta.proxy
    ]


def privileges(role: Role) -> dict[str, str]:
    """Return the privileges of a role by table."""
    found = {
        model._meta.db_table: role.tables.get(model._meta.label) or role.tables.get(model._meta.app_label, "")
        for model in models_of(role.database)
    }
    return {table: granted for table, granted in found.items() if granted} | {
        MigrationRecorder.Migration._meta.db_table: READ  # processes wait until the database is migrated
    }


def statements(
    database: str, *, name: str, existing: set[str], passwords: Mapping[str, str], settled: Container[str] = ()
) -> Iterator[Any]:
    """
    Yield the SQL that gives each role of a database exactly what is in the tables above, run by the owner.

    :param name: of the database at its server
    :param existing: the roles that are there; of the others those with a password are created
    :param passwords: by role
    :param settled: the tables whose policies are as they should be; to make one, nobody else may use the table
    """
    here = [role for role in ROLES if role.database == database]
    yield _sql("REVOKE ALL ON DATABASE {} FROM PUBLIC", sql.Identifier(name))
    yield _sql("REVOKE ALL ON SCHEMA {} FROM PUBLIC", SCHEMA)
    for role in here:
        identifier, password = sql.Identifier(role.name), passwords.get(role.name)
        if role.name not in existing:
            if not password:
                continue
            yield _sql("CREATE ROLE {} LOGIN NOINHERIT", identifier)
        if password:
            yield _sql("ALTER ROLE {} PASSWORD {}", identifier, sql.Literal(password))
        for kind in ("TABLES", "SEQUENCES"):  # also what an earlier release granted, and to tables to come
            yield _sql(f"ALTER DEFAULT PRIVILEGES IN SCHEMA {{}} REVOKE ALL ON {kind} FROM {{}}", SCHEMA, identifier)
            yield _sql(f"REVOKE ALL ON ALL {kind} IN SCHEMA {{}} FROM {{}}", SCHEMA, identifier)
        yield _sql("REVOKE ALL ON SCHEMA {} FROM {}", SCHEMA, identifier)
        yield _sql("REVOKE ALL ON DATABASE {} FROM {}", sql.Identifier(name), identifier)
        yield _sql("GRANT CONNECT ON DATABASE {} TO {}", sql.Identifier(name), identifier)
        yield _sql("GRANT USAGE ON SCHEMA {} TO {}", SCHEMA, identifier)
        drawn = {apps.get_model(label)._meta.db_table: sequence for label, sequence in SEQUENCES.items()}
        called = {apps.get_model(label)._meta.db_table: functions for label, functions in FUNCTIONS.items()}
        for table, granted in sorted(privileges(role).items()):
            yield _sql(f"GRANT {granted} ON {{}}.{{}} TO {{}}", SCHEMA, sql.Identifier(table), identifier)
            if table in drawn and "INSERT" in granted:
                yield _sql("GRANT USAGE ON SEQUENCE {}.{} TO {}", SCHEMA, sql.Identifier(drawn[table]), identifier)
            for function in called.get(table, ()) if "DELETE" in granted else ():
                yield _sql(f"GRANT EXECUTE ON FUNCTION {{}}.{function} TO {{}}", SCHEMA, identifier)
    there = [role for role in here if role.name in existing or passwords.get(role.name)]
    for label in _limited(there):
        if label not in settled:
            yield from _row_statements(_table_of(label), label, there)


def settled_in(cursor: Any, database: str, *, existing: set[str]) -> set[str]:
    """Return the tables of a database whose policies are as they should be, by model."""
    roles = [role for role in ROLES if role.database == database]
    if {role.name for role in roles} - existing:
        return set()
    return {label for label in _limited(roles) if _is_settled(cursor, label, roles)}


def _is_settled(cursor: Any, label: str, roles: list[Role]) -> bool:
    # PostgreSQL words conditions in its own way, so it is asked to do that with ours, on a table that nobody uses.
    table, probe = _table_of(label), _sql("pg_temp.probe")
    cursor.execute(_sql("CREATE TEMPORARY TABLE probe (LIKE {})", table))
    for statement in _row_statements(probe, label, roles):
        cursor.execute(statement)
    wanted, found = (_policies_of(cursor, one) for one in (probe, table))
    cursor.execute(_sql("DROP TABLE {}", probe))
    return wanted <= found


def _policies_of(cursor: Any, table: Any) -> set[tuple[Any, ...]]:
    cursor.execute(POLICIES, [table.as_string(None)] * 2)
    return set(cursor.fetchall())


def _table_of(label: str) -> Any:
    return _sql("{}.{}", SCHEMA, sql.Identifier(apps.get_model(label)._meta.db_table))


def _limited(roles: list[Role]) -> list[str]:
    """Return the tables of which one of these roles does not see or write every row, by model."""
    return sorted({label for role in roles for label in role.rows})


def _row_statements(table: Any, label: str, roles: list[Role]) -> Iterator[Any]:
    """Yield the policies of such a table."""
    yield _sql("ALTER TABLE {} ENABLE ROW LEVEL SECURITY", table)
    for role in roles:
        if label in role.tables:
            for command, conditions in _policies(role.rows.get(label, Rows())).items():
                policy = sql.Identifier(f"{command.lower()}_by_{role.name}")
                yield _sql("DROP POLICY IF EXISTS {} ON {}", policy, table)
                yield _sql(
                    f"CREATE POLICY {{}} ON {{}} FOR {command} TO {{}} {conditions}",
                    policy, table, sql.Identifier(role.name),
                )  # fmt: skip


def _policies(rows: Rows) -> dict[str, str]:
    # One for each command: what a role sees must be wider than what it may change, or PostgreSQL refuses a change by
    # which a row would leave its sight.
    return {
        "SELECT": f"USING ({rows.visible})",
        "INSERT": f"WITH CHECK ({rows.written})",
        "UPDATE": f"USING ({rows.changed}) WITH CHECK ({rows.written})",
        "DELETE": f"USING ({rows.changed})",
    }


def _sql(template: str, *parts: Any) -> Any:
    return sql.SQL(template).format(*parts)
