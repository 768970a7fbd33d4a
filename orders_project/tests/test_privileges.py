"""What the tables of privileges allow, tried in PostgreSQL as each role: what it needs works, and nothing else does."""

import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connections, transaction
from django.utils import timezone

from common.money import Money
from orders import archive, factories, transitions, webhook_secrets, webhooks
from orders.messages import DeliverWebhook
from orders.models import (
    NUMBERS,
    Order,
    OrderEvent,
    Outgoing,
    Status,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
)
from orders.outbound_http import Answer
from orders_project.management.commands import grant
from orders_project.privileges import broker, database
from outbox.message import REGISTRY
from payments import reading
from payments import services as money
from payments.messages import PaymentSucceeded
from processing import services as stock
from processing.models import Hold, HoldLine, Product, StockMovement
from processing.tests.factories import product as make_product

PROJECT = Path(settings.BASE_DIR)
SERVICES = settings.SERVICES
DENIED = "permission denied|must be owner|row-level security"


# The tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ["default", *SERVICES])
def test_every_table_says_what_its_service_may_do_with_it(alias: str) -> None:
    listed = database.TABLES[alias]
    missing = {
        model._meta.label
        for model in database.models_of(alias)
        if model._meta.label not in listed and model._meta.app_label not in listed
    }
    assert missing == set(), f"say in {database.__name__} what processes do with these"


@pytest.mark.django_db
@pytest.mark.parametrize("alias", SERVICES)
def test_nobody_changes_or_deletes_rows_of_an_append_only_table(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname LIKE '%_is_append_only'")
        guarded = {table for (table,) in cursor.fetchall()}
    assert guarded
    for role in database.ROLES:
        if role.database == alias:
            granted = database.privileges(role)
            changed = {table for table in guarded if re.search("UPDATE|DELETE", granted.get(table, ""))}
            # Of these the trigger lets names and remarks be erased, and nothing else.
            assert changed <= {
                "orders_archive", "orders_orderevent", "outbox_deadletteraction", "payments_attempt", "payments_entry",
                "processing_stockmovement",
            }  # fmt: skip
            assert not [table for table in changed if re.search(r"UPDATE(?! \()", granted[table])]
            # And rows go from these to where the trigger finds them.
            deleted = {table for table in changed if "DELETE" in granted[table]}
            assert deleted <= {"orders_archive", "orders_orderevent"}


def test_no_role_is_for_two_databases_and_no_privilege_is_about_the_table_itself() -> None:
    assert len({role.name for role in database.ROLES}) == len(database.ROLES)
    for role in database.ROLES:
        for granted in database.privileges(role).values():
            assert set(re.findall(r"[A-Z]+", granted)) <= {"SELECT", "INSERT", "UPDATE", "DELETE"}


def test_orders_may_send_the_commands_that_its_code_uses_and_no_others() -> None:
    used = {
        alias.name
        for path in (PROJECT / "orders").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in ("payments.messages", "processing.messages")
        for alias in node.names
    }
    kinds = {kind for kind in REGISTRY.values() if kind.__name__ in used and kind.to in ("payments", "processing")}
    assert kinds == set(broker.COMMANDS["orders"])


def test_every_message_has_a_service_that_sends_it() -> None:
    """Each is an event of the service that declares it, a command in the table, or for the service itself."""
    for service in SERVICES:
        for kind in broker.sent_by(service):
            assert kind.to != service, kind.name
    told = {kind for service in SERVICES for kind in broker.sent_by(service)}
    for kind in REGISTRY.values():
        home = kind.__module__.partition(".")[0]
        if home in SERVICES and kind not in told:
            assert kind.to in (home, "events"), f"no service may send {kind.name}"


@pytest.mark.parametrize("key", [f"orders.{PaymentSucceeded.name}", f"orders-3.{PaymentSucceeded.name}"])
def test_only_payments_may_say_that_money_is_in(key: str) -> None:
    may = {
        user.name
        for user in broker.USERS
        for one in user.topic_permissions("/")
        if one["exchange"] == settings.OUTBOX_EXCHANGE and re.search(one["write"], key)
    }
    # To itself, orders sends again what it has received, when handling it has failed.
    assert may == {"payments_app", "orders_app"}


def test_privileges_are_for_any_number_of_queues() -> None:
    reads = {user.name: user.permissions("/")["read"] for user in broker.USERS}
    for queue in ("orders", "orders.1", "orders.12", "orders.beat", "orders.dlq"):
        assert {name for name, pattern in reads.items() if re.search(pattern, queue)} == {"orders_app"}
    for queue in ("orders.webhooks.1", "orders.1.dlq", "orders-1", "orders."):
        assert not any(re.search(pattern, queue) for pattern in reads.values())


# The roles in PostgreSQL ---------------------------------------------------------------------------------------------


@contextmanager
def granted(alias: str) -> Iterator[None]:
    """All privileges are in effect, until the transaction is rolled back."""
    passwords = {role.name: "x" for role in database.ROLES}
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")  # of rows that a test has made
        cursor.execute("SELECT current_database()")
        (name,) = cursor.fetchone()
        for statement in database.statements(alias, name=name, existing=set(), passwords=passwords):
            cursor.execute(statement)
        yield
        transaction.set_rollback(True, using=alias)


@contextmanager
def acting_as(role: str, alias: str) -> Iterator[Any]:
    """What happens inside is done by this role."""
    with connections[alias].cursor() as cursor:
        cursor.execute(f"SET LOCAL ROLE {role}")
        yield cursor
        cursor.execute("RESET ROLE")


def refused(cursor: Any, alias: str, statement: str) -> bool:
    try:
        with transaction.atomic(using=alias):
            cursor.execute(statement)
    except ProgrammingError as error:
        return bool(re.search(DENIED, str(error)))
    return False


def attempts(role: database.Role) -> list[str]:
    """Statements by which a role would overstep its place, whatever its tables are."""
    found = []
    for model in database.models_of(role.database):
        table = model._meta.db_table
        column = model._meta.pk.column
        may = database.privileges(role).get(table, "")
        found += [
            f"TRUNCATE {table} CASCADE",
            f"ALTER TABLE {table} DISABLE TRIGGER ALL",
            f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} OWNER TO {role.name}",
            f"DROP TABLE {table} CASCADE",
            f"CREATE TRIGGER mine BEFORE INSERT ON {table} EXECUTE FUNCTION tsvector_update_trigger()",
        ]
        found += [f"DELETE FROM {table}"] * ("DELETE" not in may)
        found += [f"UPDATE {table} SET {column} = {column}"] * ("UPDATE" not in may or "UPDATE (" in may)
        found += [f"SELECT FROM {table}"] * ("SELECT" not in may)
        found += [f"INSERT INTO {table} DEFAULT VALUES"] * ("INSERT" not in may)
    return found


@pytest.mark.django_db
@pytest.mark.parametrize("role", database.ROLES, ids=lambda role: role.name)
def test_a_role_can_do_nothing_that_it_has_no_business_to_do(role: database.Role) -> None:
    with granted(role.database), acting_as(role.name, role.database) as cursor:
        allowed = [one for one in attempts(role) if not refused(cursor, role.database, one)]
        assert allowed == []
        for statement in (
            "CREATE TABLE mine (id int)",
            "CREATE TEMPORARY TABLE mine (id int)",
            "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE SCHEMA mine",
            "CREATE ROLE accomplice",
            "SET session_replication_role = replica",
            "DELETE FROM django_migrations",
        ):
            assert refused(cursor, role.database, statement), statement


@pytest.mark.django_db
def test_who_takes_orders_in_holds_stock_and_can_neither_sell_nor_receive_it() -> None:
    now = timezone.now()
    product = make_product(stock=5)
    product_id = str(product.product_id)
    with granted("processing"), acting_as("orders_holding", "processing") as cursor:
        assert [offer.sku for offer in stock.offers(currency="EUR", skus=[product.sku])] == [product.sku]
        expired = now - 2 * settings.HOLD_TTL
        first = stock.hold(order_id="o-1", quantities={product_id: 2}, now=expired)  # of an attempt that has crashed
        again = stock.hold(order_id="o-1", quantities={product_id: 3}, now=now)
        assert stock.hold(order_id="o-1", quantities={product_id: 3}, now=now + timedelta(seconds=1)) == again
        with pytest.raises(stock.InsufficientStock), transaction.atomic(using="processing"):
            stock.hold(order_id="o-2", quantities={product_id: 9}, now=now)
        for statement in (
            "UPDATE processing_product SET price = 1",
            "UPDATE processing_product SET sold = sold + 1, available = available - 1",
            "UPDATE processing_product SET received = received + 1, available = available + 1",
            "UPDATE processing_hold SET status = 'sold', ended_at = now()",
            "UPDATE processing_hold SET order_id = 'another'",
            "INSERT INTO processing_stockmovement (id, product_id, kind, quantity, reason, actor, at)"
            f" VALUES (gen_random_uuid(), '{product_id}', 'received', 100, '', '', now())",
            "INSERT INTO processing_processing VALUES ('o-1', 'accepted', '', now())",
            "SELECT FROM outbox_outgoingmessage",
        ):
            assert refused(cursor, "processing", statement), statement
        cursor.execute("RESET ROLE")
        assert (Hold.objects.get(pk=first).status, Hold.objects.get(pk=again).status) == ("released", "held")
        product.refresh_from_db()
        assert (product.available, product.held, product.sold) == (2, 3, 0)
        assert (HoldLine.objects.count(), StockMovement.objects.filter(hold__isnull=False).count()) == (2, 3)


@pytest.mark.django_db
def test_who_places_orders_draws_their_numbers() -> None:
    draw = f"SELECT nextval('{NUMBERS}')"
    with granted("orders"), acting_as("orders_app", "orders") as cursor:
        cursor.execute(draw)
    with granted("orders"), acting_as("orders_webhooks", "orders") as cursor:
        assert refused(cursor, "orders", draw)


@pytest.mark.django_db
def test_who_places_orders_of_the_release_before_draws_numbers_from_the_migration_on() -> None:
    migration = import_module("orders.migrations.0022_numbers")
    with transaction.atomic(using="orders"), connections["orders"].cursor() as cursor:
        cursor.execute("CREATE ROLE before_numbers; GRANT USAGE ON SCHEMA public TO before_numbers")
        cursor.execute("GRANT SELECT, INSERT ON orders_order TO before_numbers")
        cursor.execute(f"DROP SEQUENCE {NUMBERS} CASCADE")
        cursor.execute(migration.SEQUENCE)
        cursor.execute("SELECT has_sequence_privilege('before_numbers', %s, 'USAGE')", [NUMBERS])
        assert cursor.fetchone() == (True,)
        transaction.set_rollback(True, using="orders")


@pytest.mark.django_db
def test_orders_archives_histories_and_brings_them_back_and_nobody_else_does() -> None:
    order = factories.order(user_id="nobody")
    Order.objects.update(status="failed")
    Outgoing.objects.all().delete()
    later, (month,) = timezone.now() + timedelta(days=99), Order.objects.dates("created_at", "month")
    with granted("orders"), acting_as("orders_app", "orders") as cursor:
        assert archive.archive(now=later, older_than=timedelta(days=60)) == 1
        assert not OrderEvent.objects.exists()
        transitions.lock(order.pk)
        assert OrderEvent.objects.exists()
        for statement in (
            "DELETE FROM orders_orderline",
            "UPDATE orders_archive SET month = month",
            "CREATE TABLE orders_archive_more PARTITION OF orders_archive DEFAULT",
            f"DROP TABLE orders_archive_{month:%Y_%m}",
        ):
            assert refused(cursor, "orders", statement), statement
    with granted("orders"), acting_as("orders_webhooks", "orders") as cursor:
        for statement in ("SELECT FROM orders_archive", f"SELECT orders_archive_month('{month}')"):
            assert refused(cursor, "orders", statement), statement


@pytest.mark.django_db
def test_who_shows_orders_reads_what_became_of_their_payments_and_nothing_else() -> None:
    money.open_account(user_id="ann")
    money.deposit(user_id="ann", amount=700, now=timezone.now())
    money.charge_account(order_id="o-1", user_id="ann", money=Money(500, "USD"), now=timezone.now())
    with granted("payments"), acting_as("orders_reading", "payments") as cursor:
        shown = reading.payment_of("o-1")
        assert shown is not None
        assert (shown.status, shown.captured_amount, shown.refunded_amount) == ("succeeded", 500, 0)
        for statement in (
            "SELECT balance FROM payments_account",
            "SELECT source_id FROM payments_entry",
            "UPDATE payments_payment SET amount = 1",
            "INSERT INTO payments_attempt (payment_id, attempt_id, code, at) VALUES ('o-1', '', '', now())",
            "SELECT FROM payments_webhookreceipt",
            "SELECT FROM outbox_outgoingmessage",
        ):
            assert refused(cursor, "payments", statement), statement


@pytest.mark.django_db
def test_processing_sells_and_gives_back_by_its_own_role() -> None:
    now = timezone.now()
    product = make_product(stock=5)
    product_id = str(product.product_id)
    with granted("processing"), acting_as("processing_app", "processing"):
        holds = [stock.hold(order_id=f"o-{n}", quantities={product_id: n}, now=now) for n in (1, 2)]
        stock.process(order_id="o-1", hold_id=str(holds[0]), refusal=None, now=now)
        stock.release(order_id="o-2", hold_id=str(holds[1]), now=now)
        assert Product.objects.get(pk=product.pk).sold == 1
        assert set(Hold.objects.values_list("order_id", "status")) == {("o-1", "sold"), ("o-2", "released")}


@pytest.mark.django_db
@pytest.mark.parametrize(("answer", "status"), [(204, "delivered"), (500, "pending"), (410, "failed")])
def test_the_worker_of_webhooks_records_its_results_and_can_post_nothing_else(answer: int, status: str) -> None:
    now = timezone.now()
    with transaction.atomic(using="orders"):
        endpoint = WebhookEndpoint.objects.create(url="https://a.example", created_at=now)
        webhook_secrets.issue(endpoint_id=endpoint.pk, now=now)
    delivery = WebhookDelivery.objects.create(
        endpoint=endpoint, event_id=endpoint.pk, type="order.paid", order_id="o-1", body="{}", created_at=now
    )
    message = DeliverWebhook(delivery_id=str(delivery.pk), order_id="o-1", attempt=0)
    with granted("orders"), acting_as("orders_webhooks", "orders") as cursor:
        with transaction.atomic(using="orders"):
            webhooks.record(message=message, result=webhooks.Result(0.1, Answer(answer, "", "")), now=now)
        with pytest.raises(ProgrammingError, match=DENIED), transaction.atomic(using="orders"):
            Outgoing.post(PaymentSucceeded(order_id="o-1", payment_id="p-1"))
        for statement in (
            "UPDATE orders_webhookendpoint SET url = 'https://evil.example'",
            "UPDATE orders_webhookendpoint SET secret = 'known'",
            f"UPDATE orders_order SET status = '{Status.PAID}'",
            "SELECT FROM orders_order",
            "INSERT INTO outbox_deadletter (id, status, origin, queue, type, subject, reason, error, traceback,"
            " fingerprint, attempts, worker, headers, body, replays, died_at) VALUES (gen_random_uuid(), 'dead',"
            " 'consumer', 'orders', 'payment.succeeded', '', '', '', '', '', 1, '', '{}', '', 0, now())",
        ):
            assert refused(cursor, "orders", statement), statement
        cursor.execute("RESET ROLE")
        delivery.refresh_from_db()
        endpoint.refresh_from_db()
        assert (delivery.status, endpoint.is_active) == (status, answer != 410)
        assert WebhookAttempt.objects.get().status_code == answer
        posted = Outgoing.objects.values_list("type", flat=True)
        assert list(posted) == ["orders.deliver_webhook"] * (answer == 500)


# The command ---------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_grant_is_the_same_every_time_and_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grant.settings, "DATABASES_HERE", ("processing",))
    monkeypatch.setattr(grant.settings, "DATABASE_PASSWORDS", {"processing_app": "x", "orders_holding": "x"})
    monkeypatch.setattr(grant.settings, "RABBITMQ_MANAGEMENT_URL", "")
    with transaction.atomic(using="processing"), connections["processing"].cursor() as cursor:
        cursor.execute("CREATE ROLE orders_holding LOGIN")  # as earlier releases made it
        cursor.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO orders_holding")
        cursor.execute("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO orders_holding")
        for _ in range(2):
            said = StringIO()
            call_command("grant", stdout=said)
            assert "processing: processing_app, orders_holding" in said.getvalue()
            cursor.execute("CREATE TABLE later (id int)")
            with acting_as("orders_holding", "processing"):
                assert refused(cursor, "processing", "DELETE FROM processing_hold")
                assert refused(cursor, "processing", "SELECT FROM later")
            cursor.execute("DROP TABLE later")
        monkeypatch.setattr(grant.settings, "DATABASE_PASSWORDS", {})
        cursor.execute("DROP OWNED BY processing_app; DROP ROLE processing_app")
        with pytest.raises(CommandError, match="processing_app"):
            call_command("grant", stdout=StringIO())
        transaction.set_rollback(True, using="processing")


@pytest.mark.django_db
@pytest.mark.parametrize(
    "change",
    [
        "ALTER POLICY update_by_orders_holding ON processing_hold USING (true)",
        "ALTER POLICY insert_by_orders_holding ON processing_hold WITH CHECK (true)",
        "ALTER POLICY delete_by_orders_holding ON processing_hold TO PUBLIC",
        "DROP POLICY select_by_orders_holding ON processing_hold",
        "DROP POLICY select_by_orders_holding ON processing_hold;"
        " CREATE POLICY select_by_orders_holding ON processing_hold TO orders_holding USING (true)",
        "ALTER TABLE processing_hold DISABLE ROW LEVEL SECURITY",
    ],
)
def test_grant_makes_only_the_policies_that_are_not_as_they_should_be(change: str) -> None:
    """To make one, nobody else may use the table: the next deployment would stop all orders for a report that runs."""
    existing = {role.name for role in database.ROLES}
    limited = {"processing.Hold", "processing.StockMovement"}
    with granted("processing"), connections["processing"].cursor() as cursor:
        assert database.settled_in(cursor, "processing", existing=existing) == limited
        again = database.statements("processing", name="x", existing=existing, passwords={}, settled=limited)
        assert not [one for one in again if re.search("POLICY|ROW LEVEL", one.as_string(None))]
        cursor.execute(change)
        assert database.settled_in(cursor, "processing", existing=existing) == limited - {"processing.Hold"}


def test_grant_never_takes_the_privileges_of_the_user_that_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grant.settings, "DATABASES_HERE", ())
    monkeypatch.setattr(grant.settings, "RABBITMQ_MANAGEMENT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(grant.settings, "AMQP_URL", "amqp://monitor:x@127.0.0.1:1//")
    with pytest.raises(CommandError, match="use an administrator"):
        call_command("grant", stdout=StringIO())


def test_hashed_passwords_are_those_of_rabbitmq() -> None:
    import base64
    import hashlib

    stored = base64.b64decode(broker.hashed("secret"))
    assert stored[4:] == hashlib.sha256(stored[:4] + b"secret").digest()


def test_raw_sql_of_the_policies_names_columns_that_exist() -> None:
    for role in database.ROLES:
        for label, rows in role.rows.items():
            columns = {field.column for field in apps.get_model(label)._meta.concrete_fields}
            words = set(re.findall(r"(\w+)\"? (?:=|IN)", f"{rows.visible} {rows.changed} {rows.written}"))
            assert words <= columns, label
