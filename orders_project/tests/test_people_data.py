"""A person's data is exported whole, and erased whole: in no column of any database is a name left."""

import json
import re
from typing import Any
from urllib.parse import quote, quote_plus
from uuid import uuid4

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connections, models, transaction
from django.test import Client
from django.utils import timezone

from common.authority import Authority
from common.personal_data import Person
from orders import history, services
from orders.models import DeadLetter, IdempotencyKey, Order, OrderEvent, Outgoing, WebhookAttempt, WebhookDelivery
from orders.models import Refund as OrderRefund
from orders.webhook_models import WebhookEndpoint
from orders_project import people_data
from orders_project.audit import audit
from orders_project.models import Approval, BulkRow, BulkRun, Erasure, SavedFilter
from orders_project.privileges.database import ROLES, models_of, privileges
from orders_project.tests.carrier import Carrier
from outbox.ids import uuid7
from outbox.models import DeadLetterAction
from payments import services as money
from payments.models import Account, Attempt, Difference, GatewayTransaction, Payment, WebhookReceipt
from payments.models import IdempotencyKey as PaymentAnswer
from processing import services as stock
from processing.models import StockMovement

pytestmark = pytest.mark.django_db

EMAIL, USER, CUSTOMER = "Ann.Smith@Example.com", "ann-smith-17", "crm-ann-smith"
NAMES = (EMAIL.lower(), USER, CUSTOMER)
NOW = timezone.now


@pytest.fixture(autouse=True)
def operators() -> None:
    for name in ("olga", "boris"):
        user = User.objects.create_user(name, is_staff=True)
        user.user_permissions.add(Permission.objects.get(codename="erase_person"))


def place(order_id: str, *, user: str = USER, email: str = EMAIL, principal: str = "", **fields: Any) -> Order:
    new = services.NewOrder(
        lines=(services.Line(quantity=1, price=500),), order_id=order_id, user_id=user, user_email=email,
        principal=principal, **fields,
    )  # fmt: skip
    return services.place_order(new=new, now=NOW(), actor=principal)[0]


def pay(user: str, amount: int, *, principal: str = "") -> None:
    money.open_account(user_id=user, principal=principal)
    if amount:
        money.deposit(user_id=user, amount=amount, principal=principal, now=NOW(), reason=f"gift for {user}",
                      by=Authority("olga", is_staff=True))  # fmt: skip


@pytest.fixture
def life(post: Carrier) -> Order:
    """An order with everything that can be stored about who placed it; and one of somebody else."""
    pay(USER, 500)
    pay("bob-jones", 500)
    order = place(
        "a-1", customer_id=CUSTOMER, description="For Ann Smith, 3rd floor", metadata={"phone": "+1 555 0100"}
    )
    post.run()
    place("b-1", user="bob-jones", email="bob@example.com")
    post.run()
    assert set(Order.objects.values_list("status", flat=True)) == {"done"}
    everything_about(order)
    return order


def everything_about(order: Order) -> None:
    """Store in each table with personal data what real traffic could have left there."""
    told, text, now = {"user_email": EMAIL, "note": f"call {EMAIL}"}, f"no account of {USER}", NOW()
    about = order.order_id
    for answers, more in ((IdempotencyKey, {"order_id": about}), (PaymentAnswer, {})):
        answers._base_manager.create(
            principal="", key="k", fingerprint="f", answer_status=201, answer=json.dumps(told), created_at=now,
            answer_headers={"Location": f"/accounts/{quote(EMAIL)}?currency=USD"}, **more,
        )  # fmt: skip
    endpoint = WebhookEndpoint.objects.create(url="https://example.com", hears_all=True, created_at=now)
    delivery = WebhookDelivery.objects.create(
        endpoint=endpoint, event_id=uuid7(), type="order.done", order_id=about, body=json.dumps({"data": told}),
        status="delivered", created_at=now,
    )  # fmt: skip
    WebhookAttempt.objects.create(delivery=delivery, number=1, at=now, seconds=1, response=f"hello {EMAIL}")
    OrderRefund.objects.create(
        order=order, amount=1, currency="USD", status="failed", reason=f"{USER} asked", created_at=now, updated_at=now
    )
    OrderEvent.objects.create(
        order=order, version=order.version + 90, type="order.refund_requested", status="done", correlation_id="c",
        at=now,
        data={"note": f"{EMAIL} called", "refund": {"reason": f"{USER} asked", "amount": 1}},
    )  # fmt: skip
    Order.objects.filter(pk=about).update(version=order.version + 90, updated_at=now)
    DeadLetter.of(
        None, reason="failed", origin="consumer", queue="orders", subject=about, error=text, traceback=text,
        headers={"x": EMAIL}, body=json.dumps([[{"data": told}], {}, {}]).encode(),
    ).record()  # fmt: skip
    DeadLetterAction.objects.using("orders").create(
        dead_letter_id=DeadLetter.objects.get().pk, verb="correct", by="olga",
        detail={"why": f"{USER} called", "changes": [["user_email", "", EMAIL]], "attempt": 6},
    )  # fmt: skip
    Payment.objects.filter(pk=about).update(client_secret="secret", next_action={"email": EMAIL})
    Attempt.objects.create(payment_id=about, attempt_id="1", code="no", message=f"card of {EMAIL}", at=now)
    WebhookReceipt.objects.create(
        gateway="fake", webhook_id="w", status="applied", order_id=about, received_at=now,
        body=json.dumps({"object": {"billing_details": {"name": "Ann Smith", "email": EMAIL}}}).encode(),
    )  # fmt: skip
    for number, of in enumerate((about, "")):
        WebhookReceipt.objects.create(
            gateway="fake", webhook_id=f"d{number}", status="discarded", order_id=of, received_at=now, body=b"",
            reason=f"{USER} called", decided_by="olga",
        )  # fmt: skip
        Difference.objects.create(
            id=uuid7(), kind="unknown", status="accepted", gateway="fake", what="charge", order_id=of, at=now,
            found_at=now, seen_at=now, closed_at=now, closed_by="olga", closed_why=f"{EMAIL} has paid in cash",
        )  # fmt: skip
        GatewayTransaction.objects.create(
            id=uuid7(), gateway="fake", transaction_id=f"t{number}", kind="charge", amount=1, fee=0, currency="USD",
            fee_currency="USD", at=now, order_id=of, description=f"Receipt for {EMAIL}",
        )  # fmt: skip
    lamp = stock.make_product(name="Lamp", price=500, stock=5, actor="olga", now=now)
    for correction in (False, True):
        stock.receive_stock(
            product_id=lamp.pk, quantity=1, reason=f"{USER} brought it", actor="olga", now=now, correction=correction
        )
    LogEntry.objects.create(
        user_id=User.objects.get(username="olga").pk, object_repr="order", action_flag=CHANGE,
        change_message=f"Export as CSV where q={quote_plus(EMAIL)}&status__exact=done. Columns: order_id, total.",
    )  # fmt: skip
    Approval.objects.create(
        verb="orders.order.cancel", subject=about, amount=1, currency="USD", reason=f"{USER} called",
        call={"values": {"reason": f"{EMAIL}"}}, status="approved", asked_by="olga", decided_by="boris",
    )  # fmt: skip
    SavedFilter.objects.create(user_id=1, page="orders.order", name=USER, params=[["q", EMAIL]], saved_at=now)
    run = BulkRun.objects.create(
        request_id=uuid7(), page="orders.order", action="cancel", params=[["q", EMAIL]], values={"reason": USER},
        total=1, by="olga", user_id=1, language="en", started_at=now,
    )  # fmt: skip
    BulkRow.objects.create(run=run, key=about, outcome="skipped", said=f"no account of {USER}")


def places_of(*texts: str) -> set[str]:
    """Return the tables in whose rows one of these texts stands, in whatever case and column."""
    found = set()
    for alias in connections:
        for model in models_of(alias):
            table = model._meta.db_table
            with connections[alias].cursor() as cursor:
                cursor.execute(f"SELECT * FROM {table}")
                for row in cursor.fetchall():
                    shown = " ".join(
                        bytes(one).decode(errors="replace") if isinstance(one, bytes | memoryview) else str(one)
                        for one in row
                    ).lower()
                    found |= {table for text in texts if text.lower() in shown}
    return found


def erase(*names: str) -> Erasure:
    call_command("person", "erase", *names, "--by", "olga", "--reason", "asked for it")
    erasure = Erasure.objects.get(status="waiting")
    call_command("person", "approve", str(erasure.pk), "--by", "boris")
    return Erasure.objects.get(pk=erasure.pk)


def test_no_name_is_left_and_everything_still_adds_up(life: Order) -> None:
    tables = places_of(*NAMES)
    assert len(tables) > 10, "the test must have something to find"
    erasure = erase(EMAIL.upper(), USER, CUSTOMER)
    assert places_of(*NAMES, *map(quote_plus, NAMES), "Ann Smith", "555 0100") == set()
    assert len(places_of("bob-jones")) >= 4, "others keep their data"
    assert all(isinstance(one, int) for one in history.check())
    assert audit().findings == []
    order, payment = Order.objects.get(pk=life.pk), Payment.objects.get(pk=life.pk)
    account = Account.objects.get(user_id=order.user_id)
    assert order.user_id == payment.user_id == account.user_id
    assert order.user_id.startswith("erased-")
    assert order.user_email.endswith("@erased.invalid")
    assert (erasure.status, erasure.asked_by, erasure.decided_by) == ("done", "olga", "boris")
    assert (erasure.names, erasure.key) == ([], None)
    assert erasure.erased["orders.order"] == 1
    assert erasure.erased["processing.stockmovement"] == 2
    log = LogEntry.objects.get(change_message__startswith="Export").change_message
    assert log.endswith("%40erased.invalid&status__exact=done. Columns: order_id, total.")
    with pytest.raises(CommandError, match="nothing_known"):
        erase(EMAIL, USER)


class Killed(BaseException):
    """The process ends here."""


def test_after_a_kill_at_any_point_it_is_finished_with_the_same_pseudonyms(
    life: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_command("person", "erase", EMAIL, USER, "--by", "olga", "--reason", "asked for it")
    erasure = Erasure.objects.get()
    with pytest.raises(CommandError, match="second_person_needed"):
        call_command("person", "approve", str(erasure.pk), "--by", "olga")
    tables, real = len(people_data.TABLES), people_data.Table.erase
    for last in range(tables):
        calls = iter(range(tables))

        def stop(*args: Any, last: int = last, calls: Any = calls) -> int:
            if next(calls) == last:
                raise Killed
            return real(*args)

        monkeypatch.setattr(people_data.Table, "erase", stop)
        try:
            call_command("person", "approve", str(erasure.pk), "--by", "boris")
        except Killed:
            assert Erasure.objects.get().status == "running"
        else:
            break
    monkeypatch.undo()
    order = Order.objects.get(pk=life.pk)
    assert Account.objects.filter(user_id=order.user_id).exists()
    assert Payment.objects.get(pk=life.pk).user_id == order.user_id
    assert places_of(EMAIL, USER) == set()


def test_it_waits_for_what_is_open_and_names_it(post: Carrier) -> None:
    pay(USER, 700)
    order = place("a-1")
    with pytest.raises(CommandError, match=rf"order {order.pk} is .*account {USER} holds"):
        erase(USER)
    post.run()
    with pytest.raises(CommandError, match=r"account .* holds 2\.00 USD"):
        erase(USER)
    assert not Erasure.objects.exists()


def test_user_ids_belong_to_clients(post: Carrier) -> None:
    for principal in ("one", "two"):
        pay(USER, 500, principal=principal)
        place("a-1", principal=principal, email="")
    post.run()
    with pytest.raises(CommandError, match=r"one, two.*several_clients"):
        erase(USER)
    call_command("person", "erase", USER, "--client", "one", "--by", "olga", "--reason", "asked for it")
    call_command("person", "approve", str(Erasure.objects.get().pk), "--by", "boris")
    assert {order.principal: order.user_id == USER for order in Order.objects.all()} == {"one": False, "two": True}
    assert Account.objects.get(user_id=USER).principal == "two"


def test_the_export_is_one_document_with_all_of_it_and_no_secret(life: Order, capsys: Any) -> None:
    place("a-2", user="", email="ann.smith@example.com")
    call_command("person", "export", "ANN.SMITH@example.com", USER)
    written = capsys.readouterr().out
    found = json.loads(written)["data"]
    assert {row["order_id"] for row in found["orders.order"]} == {"a-1", "a-2"}
    full = {label for label, rows in found.items() if rows}
    assert full >= {
        "orders.orderevent", "orders.outgoing", "orders.deadletter", "orders.webhookdelivery", "orders.idempotencykey",
        "payments.account", "payments.payment", "payments.entry", "payments.webhookreceipt", "payments.idempotencykey",
        "payments.difference", "processing.stockmovement", "orders_project.approval", "admin.logentry",
    }  # fmt: skip
    assert "secret" not in found["payments.payment"][0]
    assert "client_secret" not in found["payments.payment"][0]
    assert "bob" not in written


@pytest.mark.parametrize(
    "change",
    [
        "status = 'failed'",
        "data = data || '{\"total\": 1}'",
        'data = data || \'{"user_id": "somebody else"}\'',
        "data = data - 'user_id'",
        'data = data || \'{"description": "other"}\'',
        'data = data || \'{"metadata": {"a": "b"}}\'',
        'data = data || \'{"user_id": "erased-0123456789abcdef", "status": "failed"}\'',
    ],
)
def test_the_history_can_be_erased_and_not_rewritten(life: Order, change: str) -> None:
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(using="orders"):
        run(f"UPDATE orders_orderevent SET {change} WHERE version = 1")
    run("""UPDATE orders_orderevent SET data = data || '{"user_id": "erased-0123456789abcdef"}' WHERE version = 1""")
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(using="orders"):
        run(
            """UPDATE orders_orderevent SET data = data || '{"user_id": "erased-1111111111111111"}' WHERE version = 1"""
        )


def run(sql: str, *, using: str = "orders") -> None:
    with connections[using].cursor() as cursor:
        cursor.execute(sql)


def test_whose_an_order_is_and_what_was_asked_for_are_erased_from_its_first_event(life: Order) -> None:
    created = Outgoing.objects.get(type="order.created", subject=life.order_id)
    assert created.data["origin"]
    erase(EMAIL, USER)
    created.refresh_from_db()
    assert created.data["origin"] == ""


def test_messages_that_wait_for_the_relay_lose_the_name_as_well(life: Order) -> None:
    assert Outgoing.objects.filter(subject=life.pk, data__user_id=USER).exists()
    erase(EMAIL, USER)
    assert not Outgoing.objects.filter(data__user_id=USER).exists()


def test_two_operators_erase_in_the_admin_and_one_can_export(life: Order) -> None:
    olga, boris = Client(), Client()
    olga.force_login(User.objects.get(username="olga"))
    boris.force_login(User.objects.get(username="boris"))
    for user in User.objects.all():
        user.user_permissions.add(*Permission.objects.filter(codename__in=["export_person", "view_erasure"]))
    pages = "/admin/orders_project/erasure"
    form = {"names": f"{EMAIL}\n{USER}", "reason": "asked for it"}
    answer = olga.post(f"{pages}/do/export/", form | {"once": str(uuid4())})
    assert answer["Content-Type"] == "application/json"
    assert EMAIL in b"".join(answer.streaming_content).decode()  # type: ignore[attr-defined]
    assert olga.post(f"{pages}/do/request/", form | {"once": str(uuid4())}).status_code == 302
    erasure = Erasure.objects.get()
    approve = f"{pages}/{erasure.pk}/do/approve/"
    refused = olga.post(approve, {"once": str(uuid4())})
    assert (refused.status_code, b"second_person_needed" in refused.content) == (422, True)
    assert boris.post(approve, {"once": str(uuid4())}).status_code == 302
    assert Erasure.objects.get().status == "done"
    assert places_of(EMAIL, USER) == set(), "not even in the log of what operators did"


def test_what_is_half_erased_in_the_admin_cannot_be_rejected_any_more(
    life: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    boris = Client(raise_request_exception=False)
    boris.force_login(User.objects.get(username="boris"))
    User.objects.get(username="boris").user_permissions.add(Permission.objects.get(codename="view_erasure"))
    people_data.request(Person((EMAIL, USER)), reason="asked", by="olga", now=NOW())
    page = f"/admin/orders_project/erasure/{Erasure.objects.get().pk}/do"
    with monkeypatch.context() as fault:
        fault.setattr(people_data, "_forget", None)
        assert boris.post(f"{page}/approve/", {"once": str(uuid4())}).status_code == 500
    assert Erasure.objects.get().status == "running"
    boris.post(f"{page}/reject/", {"once": str(uuid4())})
    assert Erasure.objects.get().names == [EMAIL, USER]
    assert boris.post(f"{page}/approve/", {"once": str(uuid4())}).status_code == 302
    assert Erasure.objects.get().status == "done"
    assert boris.post(f"{page}/approve/", {"once": str(uuid4())}).status_code == 422
    assert places_of(EMAIL, USER) == set()


@pytest.mark.parametrize("name", ["ann@example.com", "ann+shop@example.com", "Ann Smith", "Аня Смит"])
def test_a_search_is_found_in_the_log_and_erased_however_it_was_written(name: str) -> None:
    boss = User.objects.create_superuser("boss")
    client = Client()
    client.force_login(boss)
    answer = client.post("/admin/orders/order/export/", {"columns": ["total"]}, QUERY_STRING=f"q={quote_plus(name)}")
    assert answer.status_code == 200
    log = LogEntry.objects.get()
    assert log.change_message == f"Export as CSV where q={name}. Columns: total.", "as other actions are logged"
    for encoded in (quote_plus(name), quote(name)):  # as releases before logged it, and as people paste a link
        LogEntry.objects.create(
            user_id=boss.pk, object_repr="order", action_flag=CHANGE,
            change_message=f"Export as CSV where q=%22{encoded}%22&age=day. Columns: total.",
        )  # fmt: skip
    person = Person((name,), key=b"key")
    (table,) = (one for one in people_data.TABLES if one.model is LogEntry)
    assert table.rows(person).count() == 3
    assert table.erase(table.rows(person), person) == 3
    assert not table.rows(person).exists()
    for message in LogEntry.objects.values_list("change_message", flat=True):
        assert message.startswith("Export as CSV where q=")
        assert "erased-" in message
        assert message.endswith(". Columns: total.")


@pytest.mark.parametrize(
    "text",
    [
        "joann%40example.com", "ann%40example.community", "%C3%BCann%40example.com", "100%", "1+1",
        "ann%2540example.com",
    ],
)  # fmt: skip
def test_the_names_of_others_stay_where_they_are_encoded(text: str) -> None:
    assert Person(("ann@example.com",), key=b"key").free(f"q={text}&x=y.") == f"q={text}&x=y."


def test_a_request_that_is_rejected_does_not_name_the_person() -> None:
    pay(USER, 0)
    call_command("person", "erase", USER, "--by", "olga", "--reason", f"{USER} asked")
    erasure = people_data.decide(Erasure.objects.get().pk, approve=False, by="boris", now=NOW())
    assert (erasure.status, erasure.names) == ("rejected", [])
    assert places_of(USER) == {"payments_account"}


def test_requests_that_were_rejected_before_lose_the_name_as_well() -> None:
    pay(USER, 0)
    Erasure.objects.create(
        status="rejected", reason=f"{USER} did not ask", asked_by="olga", asked_at=NOW(), decided_by="boris"
    )
    assert erase(USER).status == "done"
    assert places_of(USER) == set()


@pytest.mark.parametrize(
    "change",
    ["reason = 'other'", "reason = '', quantity = 2", "reason = '', actor = ''", "quantity = 2"],
)
def test_the_movements_of_stock_can_be_erased_and_not_rewritten(change: str) -> None:
    stock.make_product(name="Lamp", price=500, stock=5, actor="olga", now=NOW())
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(using="processing"):
        run(f"UPDATE processing_stockmovement SET {change}", using="processing")
    run("UPDATE processing_stockmovement SET reason = ''", using="processing")
    movement = StockMovement.objects.get()
    assert (movement.reason, movement.quantity, movement.actor) == ("", 5, "olga")


# Nothing is forgotten -------------------------------------------------------------------------------------------------

# What cannot hold a name, no more than a text with choices.
HARMLESS = (
    models.BooleanField, models.DateField, models.DurationField, models.FloatField, models.ForeignKey,
    models.IntegerField, models.UUIDField,
)  # fmt: skip
EXEMPT = {
    "it names a user of the back office, a client of the API or a service, who has acted": """
        orders.OrderEvent.actor orders.Refund.actor orders.WebhookEndpoint.created_by
        orders_project.Approval.asked_by orders_project.Approval.decided_by
        orders_project.BulkRun.by orders_project.BulkRun.why_stopped
        orders_project.Erasure.asked_by orders_project.Erasure.decided_by
        outbox.DeadLetterAction.by
        payments.Difference.closed_by payments.Entry.actor payments.Payment.settled_by
        payments.WebhookReceipt.decided_by
        processing.StockMovement.actor
    """,
    "it names a client of the API": """
        orders.Order.principal orders.IdempotencyKey.principal orders.LatestWrite.principal
        orders.WebhookEndpoint.principal
        orders_project.Client.name orders_project.Erasure.client
        payments.Account.principal payments.IdempotencyKey.principal payments.LatestWrite.principal
        processing.LatestWrite.principal
    """,
    "it is an id that we have made, or the id of an order": """
        admin.LogEntry.object_id
        orders.ArchivedHistory.order_id orders.IdempotencyKey.order_id orders.Order.order_id
        orders.OrderEvent.message_id orders.OrderEvent.correlation_id orders.WebhookDelivery.order_id
        orders_project.Approval.subject orders_project.BulkRow.key orders_project.Client.client_id
        outbox.DeadLetter.subject outbox.DeadLetter.worker outbox.IncomingMessage.subject
        outbox.OutgoingMessage.subject outbox.OutgoingMessage.correlation_id outbox.OutgoingMessage.causation_id
        outbox.OutgoingMessage.traceparent outbox.StartedMessage.worker
        payments.Difference.order_id payments.Entry.order_id payments.Entry.request_id
        payments.GatewayTransaction.order_id payments.GatewayTransaction.reference
        payments.Payment.order_id payments.WebhookReceipt.order_id
        processing.Hold.order_id processing.Processing.order_id
    """,
    "it is an id that a client has chosen: docs/privacy.md asks for no names there": """
        orders.IdempotencyKey.key orders.Order.reference payments.IdempotencyKey.key
    """,
    "it is an id that a gateway has made": """
        orders.Order.payment_id
        payments.Attempt.attempt_id payments.Difference.payment_id payments.Difference.transaction_id
        payments.Dispute.dispute_id payments.Entry.gateway_id
        payments.GatewayTransaction.payment_id payments.GatewayTransaction.source_id
        payments.GatewayTransaction.transaction_id
        payments.Payment.gateway_payment_id payments.Payment.gateway_refund_id payments.Refund.gateway_refund_id
        payments.WebhookReceipt.payment_id payments.WebhookReceipt.webhook_id
    """,
    "it is a code, or the name of a type, a queue, a gateway, a currency or a page": """
        orders.Order.blocked orders.Order.currency orders.Order.fail_reason orders.OrderEvent.type
        orders.Refund.currency orders.Refund.fail_code orders.WebhookDelivery.type
        orders.WebhookEndpoint.disabled_because orders.WebhookEndpoint.events
        orders_project.Approval.currency orders_project.Approval.verb
        orders_project.BulkRun.action orders_project.BulkRun.language orders_project.BulkRun.page
        orders_project.Client.scopes orders_project.SavedFilter.page
        outbox.DeadLetter.queue outbox.DeadLetter.reason outbox.DeadLetter.type outbox.DeadLetterAction.verb
        outbox.IncomingMessage.type outbox.OutgoingMessage.to outbox.OutgoingMessage.type
        payments.Account.currency payments.Attempt.code payments.Difference.currency_here
        payments.Difference.currency_there payments.Difference.gateway payments.Dispute.currency
        payments.Dispute.gateway payments.Dispute.reason payments.Entry.currency
        payments.GatewayTransaction.currency payments.GatewayTransaction.fee_currency
        payments.GatewayTransaction.gateway
        payments.Payment.currency payments.Payment.fail_reason payments.Payment.gateway
        payments.Payment.installation payments.Payment.method payments.Payment.refusal
        payments.Reconciliation.gateway
        payments.Refund.currency payments.Refund.fail_reason payments.Refund.gateway
        payments.WebhookReceipt.currency payments.WebhookReceipt.gateway payments.WebhookReceipt.installation
        payments.WebhookReceipt.says
        processing.Processing.reason processing.Product.currency processing.ProductPrice.currency
    """,
    "it is about products, which docs/privacy.md excepts": """
        orders.OrderLine.name orders.OrderLine.sku orders.Refund.lines
        processing.Product.name processing.Product.sku
    """,
    "it is about a client of the API": """
        orders.WebhookEndpoint.description orders.WebhookEndpoint.url
        orders_project.Client.allowed_origins orders_project.Client.client_secret
        orders_project.Client.post_logout_redirect_uris orders_project.Client.redirect_uris
    """,
    "it is encrypted, or a digest, of something else than names": """
        orders.PerformedAction.fingerprint orders.WebhookSecret.sealed orders_project.PerformedAction.fingerprint
        outbox.DeadLetter.fingerprint payments.PerformedAction.fingerprint processing.PerformedAction.fingerprint
    """,
    "it goes with its row, after IDEMPOTENCY_RETENTION_HOURS": """
        payments.IdempotencyKey.fingerprint
    """,
    "it has numbers of rows, or sums": """
        orders_project.BulkRun.results orders_project.Erasure.erased payments.Reconciliation.found
    """,
    "it is about a file or a failure of a whole run": """
        payments.Reconciliation.error payments.Reconciliation.source
    """,
    "the request forgets it when it is done or rejected": """
        orders_project.Erasure.names orders_project.Erasure.key
    """,
    "it is about users of the back office, who stay: docs/privacy.md": """
        auth otp_totp
    """,
    "it is about logins and tokens, which expire": """
        oauth2_provider sessions
    """,
    "it is about models": """
        contenttypes
    """,
}


def test_every_column_is_treated_or_exempt_for_a_reason() -> None:
    treated = {(one.database, one.model._meta.db_table, column) for one in people_data.TABLES for column in one.columns}
    named = [one for listed in EXEMPT.values() for one in listed.split()]
    exempt, met = set(named), set()
    assert len(named) == len(exempt), "each once"
    for alias in connections:
        for model in models_of(alias):
            for column in model._meta.concrete_fields:
                if isinstance(column, HARMLESS) or column.choices:
                    continue
                full = f"{model._meta.label}.{column.name}"
                listed = {one for one in (full, model._meta.app_label) if one in exempt}
                is_treated = (alias, model._meta.db_table, column.name) in treated
                assert is_treated != bool(listed), f"{full} in {alias}: treat it, or say why not"
                met |= listed
    assert met == exempt, "without those that are gone"


def test_the_back_office_may_change_every_column_that_is_treated() -> None:
    roles = {role.database: role for role in ROLES if "back-office" in role.used_by}
    for table in people_data.TABLES:
        granted = privileges(roles[table.database])[table.model._meta.db_table]
        update = re.search(r"UPDATE(?: \((.+?)\))?", granted)
        columns = set(update[1].split(", ")) if update and update[1] else set(table.columns) if update else set()
        assert set(table.columns) <= columns, table.model._meta.label
