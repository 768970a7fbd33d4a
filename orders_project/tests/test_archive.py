"""The archive: histories of finished orders move there and back exactly, and whoever asks for them finds them."""

import json
import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import DatabaseError, OperationalError, connections, transaction
from django.db.models import Q
from django.test import Client
from django.utils import timezone

from common.authority import Authority
from common.principal import Principal
from orders import archive, history, personal_data, refunds, services, tasks, transitions, webhooks
from orders.archive import HistoryDetached
from orders.messages import DeliverWebhook
from orders.models import (
    ArchivedHistory,
    DeadLetter,
    Order,
    OrderEvent,
    Outgoing,
    Refund,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
)
from orders_project.audit import audit
from orders_project.models import Erasure
from orders_project.tests.carrier import Carrier
from outbox.ids import uuid7
from payments import services as money
from payments.messages import PaymentDisputed
from payments.models import Account, Entry

USER, EMAIL = "ann-smith-17", "ann.smith@example.com"
AFTER = timedelta(days=60)
TABLES = (
    "orders_order", "orders_orderline", "orders_orderevent", "orders_refund", "orders_webhookdelivery",
    "orders_webhookattempt", "orders_idempotencykey", "outbox_outgoingmessage", "outbox_incomingmessage",
)  # fmt: skip
MOVED = ("orders_orderevent", "orders_webhookdelivery", "orders_webhookattempt")


def later() -> datetime:
    return timezone.now() + timedelta(days=90)


def move() -> int:
    return archive.archive(now=later(), older_than=AFTER)


def findings() -> list[tuple[str, str]]:
    found = audit(settle=timedelta(0), grace=timedelta(0)).findings
    return [(finding.check, finding.order_id) for finding in found]


def bring_back() -> None:
    call_command("archive_orders", "--bring-back", "a-1")


def sql(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connections["orders"].cursor() as cursor:
        cursor.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []


def snapshot() -> dict[str, Any]:
    """Return every column of every row of an order, and what the next row would be numbered."""
    found: dict[str, Any] = {
        table: sorted(json.dumps(row, sort_keys=True) for (row,) in sql(f"SELECT to_jsonb(t) FROM {table} t"))
        for table in TABLES
    }
    found["sequences"] = sql("SELECT sequencename, last_value FROM pg_sequences ORDER BY 1")
    return found


def rows_of(order: Order) -> dict[str, int]:
    attempts = WebhookAttempt.objects.filter(delivery__order_id=order.pk)
    return dict(
        zip(
            MOVED,
            (
                OrderEvent.objects.filter(order=order).count(),
                WebhookDelivery.objects.filter(order_id=order.pk).count(),
                attempts.count(),
            ),
            strict=True,
        )
    )


def one_of(model: Any, **of: Any) -> Any:
    return model.objects.filter(pk=model.objects.filter(**of).first().pk)


def placed(order_id: str, **fields: Any) -> Order:
    new = services.NewOrder(
        lines=(services.Line(quantity=2, price=250),), order_id=order_id, user_id=USER, user_email=EMAIL, **fields
    )
    return services.place_order(new=new, now=timezone.now(), actor=fields.get("principal", ""))[0]


def at_rest(post: Carrier) -> None:
    """Let all be done that is under way; timers, and webhooks that nobody takes here, are forgotten."""
    post.run()
    Outgoing.objects.filter(Q(published_at=None) | Q(type=DeliverWebhook.name)).delete()
    WebhookDelivery.objects.update(status="delivered", next_at=None, attempts=1)


@pytest.fixture
def post(request: pytest.FixtureRequest) -> Carrier:
    carrier = Carrier()
    carrier.passes_over = lambda envelope: envelope.type == DeliverWebhook.name
    return carrier


@pytest.fixture
def order(db: None, post: Carrier) -> Order:
    """An order that is done, of which a part was refunded, with webhooks that were sent; at rest."""
    return done(post)


def done(post: Carrier, order_id: str = "a-1") -> Order:
    now = timezone.now()
    if not WebhookEndpoint.objects.exists():
        WebhookEndpoint.objects.create(url="https://example.com", hears_all=True, created_at=now)
        money.open_account(user_id=USER, principal="")
        money.deposit(user_id=USER, amount=5000, principal="", now=now, reason="gift",
                      by=Authority("olga", is_staff=True))  # fmt: skip
    order = placed(order_id, metadata={"cart": "cart-of-ann"}, description="for Ann")
    post.run()
    refunds.ask(order_id=order.pk, wanted=refunds.Wanted(amount=100, reason="broken"), by=Authority(""), now=now)
    post.run()
    for delivery in WebhookDelivery.objects.filter(order_id=order.pk):
        WebhookAttempt.objects.create(
            delivery=delivery, number=1, at=now, seconds=0.1 + random.random(), status_code=200, response=f"hi {USER}"
        )
    at_rest(post)
    order.refresh_from_db()
    assert (order.status, order.refunded) == ("done", 100)
    return order


@pytest.mark.django_db
class TestMoving:
    def test_the_way_there_and_back_changes_nothing(self, order: Order, client: Client, capsys: Any) -> None:
        before, counts = snapshot(), rows_of(order)
        paths = ("", "?expand=events", "/events", "/events?limit=2", "/refunds", "/payment")
        answers = [client.get(f"/orders/a-1{path}").json() for path in paths]
        listed = [client.get(f"/orders?{query}").json() for query in ("", "number=" + str(order.number))]
        call_command("order", "a-1")
        shown = capsys.readouterr().out
        assert min(counts.values()) > 2

        assert move() == 1
        assert set(rows_of(order).values()) == {0}
        assert {table for table in TABLES if snapshot()[table] != before[table]} == {"orders_order", *MOVED}
        assert [client.get(f"/orders/a-1{path}").json() for path in paths] == answers
        assert client.get(answers[3]["next"]).json()["results"] == answers[2]["results"][2:4]
        assert [client.get(f"/orders?{query}").json() for query in ("", "number=" + str(order.number))] == listed
        assert client.get("/orders?expand=events").json()["results"] == [answers[1]]
        call_command("order", str(order.number))
        assert capsys.readouterr().out == shown
        call_command("history", "a-1")
        assert len(capsys.readouterr().out.splitlines()) == counts["orders_orderevent"]
        assert list(history.check()) == [1]
        assert findings() == []
        client.force_login(User.objects.create_superuser("boss"))
        assert "payment.succeeded" in client.get("/admin/orders/order/a-1/change/", follow=True).text
        assert set(rows_of(order).values()) == {0}, "reading moves nothing"
        assert move() == 0

        bring_back()
        assert snapshot() == before
        assert not ArchivedHistory.objects.exists()

    def test_whatever_the_rows_contain(self, post: Carrier, order: Order) -> None:
        dice = random.Random(7)
        texts = ("", "\\", '"', "a\nb\t\x01\x7f", "Ж", "\U0001f600", "null", "'; --", "x" * 3000)
        values: tuple[Any, ...] = (
            None,
            True,
            -(2**62),
            10**30,
            1.5e-9,
            0.1 + 0.2,
            [],
            {},
            [[{"": None}]],
            {"a": {"b": [1]}},
            *texts,
        )
        version = order.version
        for number in range(60):
            version += 1
            at = datetime(2026, 1, 1, tzinfo=timezone.get_current_timezone()) + timedelta(
                microseconds=dice.randrange(10**13)
            )
            OrderEvent.objects.create(
                order=order, version=version, type="order.note", status="done", at=at, actor=dice.choice(texts)[:150],
                data={f"k{n}": dice.choice(values) for n in range(dice.randrange(5))}, correlation_id=str(number),
            )  # fmt: skip
            delivery = WebhookDelivery.objects.create(
                endpoint=WebhookEndpoint.objects.get(), event_id=uuid7(), type="order.note", order_id=order.pk,
                body=dice.choice(texts), created_at=at, status=dice.choice(["delivered", "failed"]),
                next_at=dice.choice([None, at]),
            )  # fmt: skip
            for n in range(dice.randrange(3)):
                WebhookAttempt.objects.create(
                    delivery=delivery, number=n, at=at, seconds=dice.random() * 10.0 ** dice.randrange(-12, 12),
                    status_code=dice.choice([None, 200]), response=dice.choice(texts), error=dice.choice(texts)[:200],
                )  # fmt: skip
        Order.objects.filter(pk=order.pk).update(version=version, updated_at=at)
        before, read = snapshot(), [vars(event) | {"_state": None} for event in archive.history_of(order)]
        assert move() == 1
        order.refresh_from_db()
        assert [vars(event) | {"_state": None} for event in archive.history_of(order)] == read
        with transaction.atomic(using="orders"):
            transitions.lock(order.pk)
        assert snapshot() == before

    def test_columns_that_were_added_later_get_their_defaults(self, order: Order) -> None:
        before = snapshot()
        assert move() == 1
        sql("SET CONSTRAINTS ALL IMMEDIATE")
        sql("ALTER TABLE orders_orderevent ADD COLUMN later text NOT NULL DEFAULT 'as ever'")
        bring_back()
        assert {later for (later,) in sql("SELECT later FROM orders_orderevent")} == {"as ever"}
        sql("ALTER TABLE orders_orderevent DROP COLUMN later")
        assert snapshot() == before

    def test_many_in_batches(self, post: Carrier, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(archive, "BATCH", 2)
        for number in range(2, 6):
            done(post, f"a-{number}")
        Refund.objects.filter(order="a-3").update(status="pending")
        assert move() == 4
        assert move() == 0
        assert list(Order.objects.filter(archived=None).values_list("pk", flat=True)) == ["a-3"]

    @pytest.mark.parametrize(
        "change",
        [
            lambda order: Order.objects.update(status="paid"),
            lambda order: Order.objects.update(updated_at=later() - timedelta(days=59)),
            lambda order: Order.objects.update(blocked="refused"),
            lambda order: Refund.objects.update(status="pending"),
            lambda order: one_of(WebhookDelivery, order_id="a-1").update(status="pending"),
            lambda order: one_of(Outgoing, subject="a-1").update(published_at=None),
            lambda order: DeadLetter.of(
                None, reason="x", origin="consumer", queue="orders", subject="a-1", error="x", traceback="", headers={},
                body=b"",
            ).record(),
            lambda order: dispute("opened"),
        ],
        ids=["open", "young", "blocked", "refund", "webhook", "message", "dead letter", "dispute"],
    )  # fmt: skip
    def test_not_while_anything_waits(self, order: Order, post: Carrier, change: Callable[[Order], object]) -> None:
        change(order)
        assert move() == 0
        assert rows_of(order)["orders_orderevent"] > 2

    def test_a_dispute_that_has_ended_waits_no_more(self, order: Order, post: Carrier) -> None:
        dispute("opened")
        dispute("won")
        at_rest(post)
        assert move() == 1

    def test_is_off_unless_it_is_asked_for_and_during_upgrades(self, order: Order, settings: Any) -> None:
        with pytest.raises(CommandError, match="ARCHIVE_ORDERS_AFTER_DAYS"):
            call_command("archive_orders")
        settings.ARCHIVE_ORDERS_AFTER, settings.UPGRADING = AFTER, True
        with pytest.raises(CommandError, match="not_during_upgrade"):
            call_command("archive_orders")
        settings.UPGRADING = False
        call_command("archive_orders")
        assert rows_of(order)["orders_orderevent"] > 2, "it is young"
        Order.objects.update(updated_at=timezone.now() - AFTER - timedelta(minutes=1))
        settings.ARCHIVE_ORDERS_AFTER = timedelta(0)
        tasks.archive_orders()
        assert rows_of(order)["orders_orderevent"] > 2, "it is off"
        settings.ARCHIVE_ORDERS_AFTER = AFTER
        tasks.archive_orders()
        assert rows_of(order)["orders_orderevent"] == 0


def dispute(status: str) -> None:
    refunds.disputed(
        PaymentDisputed(order_id="a-1", dispute_id="d", status=status, amount=1, currency="USD", reason="fraud"),
        now=timezone.now(),
    )


@pytest.mark.django_db
class TestWhatComesLater:
    """An archived order goes on as if its history had never been away."""

    def test_a_refund_and_a_dispute(self, order: Order, post: Carrier) -> None:
        move()
        by = Authority("")
        refunds.ask(order_id="a-1", wanted=refunds.Wanted(amount=50), by=by, now=timezone.now())
        post.run()
        order.refresh_from_db()
        assert (order.refunded, order.archived) == (150, None)
        at_rest(post)
        assert move() == 1
        dispute("opened")
        order.refresh_from_db()
        assert order.archived is None
        assert list(history.check()) == [1]
        at_rest(post)
        assert findings() == []

    def test_the_same_order_once_more(self, order: Order, post: Carrier) -> None:
        named = placed("theirs", principal="shop")
        at_rest(post)
        sql("UPDATE orders_order SET status = 'failed'")
        assert move() == 2
        assert placed("theirs", principal="shop").pk == named.pk
        assert placed("a-1", metadata={"cart": "cart-of-ann"}, description="for Ann").pk == "a-1"
        assert Order.objects.count() == 2

    def test_a_copy_of_an_old_webhook_does_nothing(self, order: Order) -> None:
        delivery = WebhookDelivery.objects.all()[0]
        message = DeliverWebhook(delivery_id=str(delivery.pk), order_id="a-1", attempt=0)
        move()
        with transaction.atomic(using="orders"):
            webhooks.record(message=message, result=webhooks.send(message), now=timezone.now())
        assert move() == 0

    def test_who_read_the_order_before_it_moved_finds_its_history_where_it_is_now(self, order: Order) -> None:
        count = rows_of(order)["orders_orderevent"]
        here = Order.objects.get()
        move()
        away = Order.objects.get()
        assert here.archived != away.archived
        assert len(archive.history_of(here)) == len(archive.history_of(away)) == count
        bring_back()
        assert len(archive.history_of(here)) == len(archive.history_of(away)) == count

    def test_other_clients_see_nothing_of_it(self, order: Order) -> None:
        move()
        stranger = Principal("other", frozenset({"orders:read", "orders:write"}))
        with pytest.raises(services.NoSuchOrder):
            services.get_order(order_id="a-1", principal=stranger)


@pytest.mark.django_db
class TestTheDatabase:
    """It lets nothing go that is not kept elsewhere, whoever asks."""

    @pytest.mark.parametrize("table", MOVED)
    def test_rows_that_are_in_no_document_stay(self, order: Order, table: str) -> None:
        with pytest.raises(DatabaseError, match=r"append-only|not deleted"), transaction.atomic(using="orders"):
            sql(f"DELETE FROM {table}")
        sql("UPDATE orders_order SET archived = '2026-01-01'")
        with pytest.raises(DatabaseError, match=r"append-only|not deleted"), transaction.atomic(using="orders"):
            sql(f"DELETE FROM {table}")

    def test_a_row_that_differs_from_its_copy_stays(self, order: Order) -> None:
        (month,) = sql("SELECT date_trunc('month', now())::date")[0]
        sql("SELECT orders_archive_month(%s)", month)
        sql("UPDATE orders_order SET archived = %s", month)
        sql(f"INSERT INTO orders_archive SELECT order_id, archived, now(), {archive._document()} FROM orders_order")
        sql("UPDATE orders_webhookdelivery SET attempts = attempts + 1")
        with pytest.raises(DatabaseError, match="not deleted"), transaction.atomic(using="orders"):
            sql("DELETE FROM orders_webhookdelivery")

    def test_a_document_stays_as_it_is(self, order: Order, subtests: pytest.Subtests) -> None:
        move()
        for change in (
            "DELETE FROM orders_archive",
            "UPDATE orders_archive SET document = '{}'",
            "UPDATE orders_archive SET archived_at = now() + interval '1 day'",
            "UPDATE orders_archive SET document = jsonb_set(document, '{orders_orderevent,0,status}', '\"failed\"')",
            "UPDATE orders_archive SET document = jsonb_set(document, '{orders_orderevent,0,data,total}', '1')",
            "UPDATE orders_archive SET document = jsonb_set(document, '{orders_orderevent,0,data,user_id}', '\"bob\"')",
            "UPDATE orders_archive SET document = document #- '{orders_orderevent,1}'",
            "UPDATE orders_archive SET document = document #- '{orders_webhookattempt,0}'",
            "UPDATE orders_archive SET document = jsonb_set(document, '{orders_webhookdelivery,0,type}', '\"x\"')",
            "UPDATE orders_archive SET document = document || '{\"more\": []}'",
        ):
            refused = pytest.raises(DatabaseError, match="append-only")
            with subtests.test(change), refused, transaction.atomic(using="orders"):
                sql(change)


@pytest.mark.django_db
class TestTheAudit:
    def test_finds_what_is_wrong_with_an_archived_order(self, order: Order) -> None:
        move()
        assert findings() == []
        with transaction.atomic(using="orders"):
            sql("UPDATE orders_order SET version = version + 1")
            assert ("archive", "a-1") in findings()
            transaction.set_rollback(True, using="orders")
        with transaction.atomic(using="orders"):
            sql("UPDATE orders_order SET archived = NULL")
            assert {("archive", "a-1"), ("history", "a-1")} <= set(findings())
            transaction.set_rollback(True, using="orders")
        with transaction.atomic(using="orders"):
            OrderEvent.objects.create(
                order_id="a-1", version=99, type="x", status="done", at=timezone.now(), correlation_id="x"
            )
            assert ("archive", "a-1") in findings()
            transaction.set_rollback(True, using="orders")
        with connections["payments"].cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; ALTER TABLE payments_entry DISABLE TRIGGER ALL")
        Entry.objects.filter(order_id="a-1", kind="charge").delete()
        assert ("captures", "a-1") in findings()

    def test_a_month_can_be_taken_away_and_put_back(self, order: Order, client: Client, capsys: Any) -> None:
        move()
        name, bounds = sql(
            "SELECT relname, pg_get_expr(relpartbound, oid) FROM pg_class WHERE relispartition AND relkind = 'r'"
            " AND starts_with(relname, 'orders_archive')"
        )[0]
        sql(f"ALTER TABLE orders_archive DETACH PARTITION {name}")
        answer = client.get("/orders/a-1/events")
        assert (answer.status_code, answer.json()["code"]) == (503, "history_detached")
        assert client.get("/orders/a-1").status_code == 200
        with pytest.raises(HistoryDetached), transaction.atomic(using="orders"):
            transitions.lock("a-1")
        assert "not attached" in personal_data.open_work(["a-1"])[0]
        with pytest.raises(CommandError, match="not attached"):
            call_command("order", "a-1")
        client.force_login(User.objects.create_superuser("boss"))
        assert "not attached" in client.get("/admin/orders/order/a-1/change/", follow=True).text
        assert findings() == []
        sql(f"ALTER TABLE orders_archive ATTACH PARTITION {name} {bounds}")
        assert client.get("/orders/a-1/events").status_code == 200


@pytest.mark.django_db
def test_the_data_of_a_person_is_found_in_the_archive_and_erased_there(order: Order, capsys: Any) -> None:
    for name in ("olga", "boris"):
        user = User.objects.create_user(name, is_staff=True)
        user.user_permissions.add(Permission.objects.get(codename="erase_person"))
    move()
    call_command("person", "export", EMAIL)
    exported = json.loads(capsys.readouterr().out)["data"]["orders.archivedhistory"]
    assert [row["order_id"] for row in exported] == ["a-1"]
    assert EMAIL in json.dumps(exported)
    pay_out()
    call_command("person", "erase", EMAIL, USER, "--by", "olga", "--reason", "asked for it")
    call_command("person", "approve", str(Erasure.objects.get().pk), "--by", "boris")
    assert Erasure.objects.get().erased["orders.archivedhistory"] == 1
    (kept,) = sql("SELECT document::text FROM orders_archive")[0]
    assert "erased-" in kept
    assert not [one for one in (EMAIL, USER, "for Ann", "cart-of-ann") if one in kept]
    assert list(history.check()) == [1]
    bring_back()
    assert list(history.check()) == [1]
    assert findings() == []


def pay_out() -> None:
    """Leave nothing in the account, so that it can be erased."""
    account = Account.objects.get(user_id=USER)
    money.correct(
        user_id=USER, amount=-account.balance, principal="", now=timezone.now(), reason="paid out",
        by=Authority("olga", is_staff=True),
    )  # fmt: skip


@pytest.fixture
def dying() -> Iterator[Callable[[int], Any]]:
    """A wrapper of statements that ends the session, from the outside, before the statement of this number."""

    def wrapper(number: int) -> Any:
        calls = iter(range(1000))

        def execute(run: Any, statement: str, parameters: Any, many: bool, context: dict[str, Any]) -> Any:
            if next(calls) == number:
                pid = context["connection"].connection.info.backend_pid
                with connections["default"].cursor() as cursor:
                    cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
            return run(statement, parameters, many, context)

        return execute

    yield wrapper
    connections["orders"].close()


@pytest.mark.django_db(transaction=True)
def test_killed_at_any_point_it_has_lost_nothing_and_doubled_nothing(
    post: Carrier, dying: Callable[[int], Any]
) -> None:
    done(post)
    before = snapshot()
    for begin, step in ((lambda: 0, move), (move, bring_back)):
        for number in range(100):
            begin()
            try:
                with connections["orders"].execute_wrapper(dying(number)):
                    step()
                break
            except OperationalError:
                connections["orders"].close()
            bring_back()
            assert snapshot() == before
        assert number > 4
        bring_back()
        assert snapshot() == before
