"""Actions of operators: performed once, with permission, and logged."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from common.admin import bulk_runs
from common.authority import Authority
from orders import history, services
from orders.models import Order
from outbox import dead_letters
from outbox.models import DeadLetter
from outbox.services import model_of
from payments import services as money
from payments.models import Entry
from processing import services as stock
from processing.messages import ProcessingRefused
from processing.models import Product, StockMovement

pytestmark = pytest.mark.django_db


def client_of(role: str, name: str = "") -> Client:
    """A client that is logged in as somebody of this role."""
    user = User.objects.create_user(name or role, is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def manager() -> Client:
    return client_of("manager")


def place(user_id: str = "ann", *, amount: int = 500) -> Order:
    new = services.NewOrder(lines=(services.Line(quantity=1, price=amount),), user_id=user_id)
    return services.place_order(new=new, now=timezone.now())[0]


def url(row: Any, action: str) -> str:
    name = f"admin:{row._meta.app_label}_{row._meta.model_name}_action"
    return reverse(name, args=[row.pk, action])


def do(client: Client, row: Any, action: str, **values: Any) -> Any:
    """Open the page of an action and send its form with these values."""
    page = client.get(url(row, action))
    if page.status_code != 200:
        return page
    form = page.context["form"]
    values = {name: form[name].value() for name in form.fields} | values
    return client.post(url(row, action), {name: value for name, value in values.items() if value is not None})


@pytest.fixture
def ann() -> Any:
    account, _made = money.open_account(user_id="ann")
    money.deposit(user_id="ann", amount=10_000_00, now=timezone.now())
    return account


class TestDeposits:
    def test_a_double_click_pays_once(self, manager: Client, ann: Any) -> None:
        values = {"once": str(uuid4()), "amount": "12.50", "reason": "a present"}
        answers = [manager.post(url(ann, "deposit"), values, follow=True) for _ in range(2)]
        ann.refresh_from_db()
        assert ann.balance == 10_012_50
        assert Entry.objects.filter(reason="a present").count() == 1
        assert LogEntry.objects.count() == 1
        assert "not done again" in answers[1].content.decode()

    def test_record_who_and_why(self, manager: Client, ann: Any) -> None:
        assert do(manager, ann, "deposit", amount="5", reason="found").status_code == 302
        entry = Entry.objects.get(reason="found")
        assert (entry.actor, entry.amount) == ("manager", 500)
        assert "Reason: found" in LogEntry.objects.get().change_message

    def test_of_no_amount_are_refused(self, manager: Client, ann: Any) -> None:
        for amount in ("0", "-1", "1.234", "lots", "1e3", "1e400", ""):
            assert do(manager, ann, "deposit", amount=amount, reason="x").status_code == 422, amount
            ann.refresh_from_db()
            assert ann.balance == 10_000_00, amount
            assert not LogEntry.objects.exists(), amount

    def test_need_a_manager(self, ann: Any) -> None:
        assert client_of("operator").get(url(ann, "deposit")).status_code == 403
        assert do(client_of("viewer"), ann, "deposit", amount="1", reason="x").status_code == 403

    def test_amounts_are_in_the_currency_of_the_account(self, manager: Client, ann: Any, settings: Any) -> None:
        settings.CURRENCIES = ("USD", "JPY")
        yen, _ = money.open_account(user_id="ann", currency="JPY")
        assert do(manager, yen, "deposit", amount="1.50", reason="cash").status_code == 422
        assert do(manager, yen, "deposit", amount="700", reason="cash").status_code == 302
        assert do(manager, yen, "correct", amount="-200", reason="too much").status_code == 302
        yen.refresh_from_db()
        ann.refresh_from_db()
        assert (yen.balance, ann.balance) == (500, 10_000_00)

    def test_corrections_go_down_but_not_below_zero(self, manager: Client, ann: Any) -> None:
        assert do(manager, ann, "correct", amount="-400", reason="booked twice").status_code == 302
        money.correct(user_id="ann", amount=-9_000_00, reason="moved", by=Authority("boss"), now=timezone.now())
        refused = do(manager, ann, "correct", amount="-600.01", reason="too much")
        assert refused.status_code == 422
        assert "insufficient_funds" in refused.content.decode()
        ann.refresh_from_db()
        assert ann.balance == 600_00


class TestStock:
    @pytest.fixture
    def lamp(self) -> Product:
        return stock.make_product(name="Lamp", sku="lamp", price=5_00, stock=10, actor="x", now=timezone.now())

    def test_moves_by_movements_with_a_reason(self, lamp: Product) -> None:
        operator = client_of("operator")
        assert do(operator, lamp, "receive", quantity=5, reason="delivery 7").status_code == 302
        assert do(operator, lamp, "correct", quantity=-3, reason="broken").status_code == 302
        lamp.refresh_from_db()
        assert (lamp.available, lamp.received) == (12, 12)
        moved = StockMovement.objects.order_by("id").values_list("kind", "quantity", "reason", "actor")
        assert list(moved)[1:] == [("received", 5, "delivery 7", "operator"), ("corrected", -3, "broken", "operator")]

    def test_is_received_once_for_each_form(self, lamp: Product) -> None:
        operator = client_of("operator")
        values = {"once": str(uuid4()), "quantity": 5, "reason": "delivery"}
        for _ in range(2):
            operator.post(url(lamp, "receive"), values)
        lamp.refresh_from_db()
        assert lamp.available == 15

    def test_is_never_a_field_to_edit(self, manager: Client, lamp: Product) -> None:
        page = manager.get(url(lamp, "edit"))
        assert set(page.context["form"].fields) == {"once", "name", "price", "is_active", "seen"}
        change = reverse("admin:processing_product_change", args=[lamp.pk])
        assert manager.post(change, {"available": 99}).status_code == 403

    def test_products_are_added_and_edited(self, manager: Client) -> None:
        add = reverse("admin:processing_product_list_action", args=["add"])
        values = {"once": str(uuid4()), "name": "Chair", "sku": "chair", "price": "1,249.00", "stock": 2}
        assert manager.post(add, values).status_code == 302
        chair = Product.objects.get(sku="chair")
        assert (chair.price, chair.available) == (1249_00, 2)
        assert do(manager, chair, "edit", price="99", is_active="").status_code == 302
        chair.refresh_from_db()
        assert (chair.price, chair.is_active, chair.available) == (99_00, False, 2)

    def test_products_have_a_price_in_each_currency(self, manager: Client, lamp: Product, settings: Any) -> None:
        settings.CURRENCIES = ("USD", "EUR", "JPY")
        add = reverse("admin:processing_product_list_action", args=["add"])
        values = {
            "once": str(uuid4()),
            "name": "Chair",
            "price": "9",
            "stock": 2,
            "price_JPY": "1,350",
            "price_EUR": "",
        }
        refused = manager.post(add, values | {"price_JPY": "1350.5"})
        assert (refused.status_code, list(refused.context["form"].errors)) == (422, ["price_JPY"])
        assert manager.post(add, values | {"price_JPY": "1350"}).status_code == 302
        chair = Product.objects.get(name="Chair")
        assert chair.prices == {"USD": 9_00, "JPY": 1350}
        assert do(manager, chair, "edit", price_EUR="8.50", price_JPY="").status_code == 302
        assert Product.objects.get(name="Chair").prices == {"USD": 9_00, "EUR": 8_50}
        page = manager.get(reverse("admin:processing_product_change", args=[chair.pk])).content.decode()
        assert "8.50 EUR" in page

    def test_an_edit_of_what_somebody_else_has_changed_meanwhile_is_refused(
        self, manager: Client, lamp: Product
    ) -> None:
        form = manager.get(url(lamp, "edit")).context["form"]
        values = {"once": str(uuid4()), "name": "Lamp", "price": "5", "seen": form["seen"].value()}
        stock.receive_stock(product_id=lamp.pk, quantity=1, reason="", actor="", now=timezone.now())
        stock.change_product(product_id=lamp.pk, price=700, actor="somebody", now=timezone.now())
        refused = manager.post(url(lamp, "edit"), values)
        assert refused.status_code == 422
        assert "version_conflict" in refused.content.decode()
        lamp.refresh_from_db()
        assert lamp.price == 700
        assert manager.post(url(lamp, "edit"), values | {"seen": lamp.catalog_etag}).status_code == 302


class TestAnOrder:
    def test_repeats_its_last_request(self, ann: Any, post: Any) -> None:
        order = place()
        post.passes_over = lambda envelope: envelope.type == "payments.charge"
        post.run()
        post.passes_over = lambda envelope: False
        assert do(client_of("operator"), order, "retry").status_code == 302
        post.run()
        order.refresh_from_db()
        assert order.status == "done"

    def test_is_canceled_with_everything_given_back(self, ann: Any, post: Any) -> None:
        order = place()
        assert do(client_of("operator"), order, "cancel", reason="asked by phone").status_code == 302
        post.run()
        order.refresh_from_db()
        ann.refresh_from_db()
        assert (order.status, order.fail_reason, ann.balance) == ("canceled", "canceled_by_operator", 10_000_00)
        assert "asked by phone" in LogEntry.objects.get().change_message
        assert order.events.get(version=2).data["note"] == "asked by phone"

    def test_that_has_changed_since_is_left_alone(self, ann: Any, post: Any) -> None:
        order = place()
        operator = client_of("operator")
        page = operator.get(url(order, "cancel"))
        post.run()
        values = {name: page.context["form"][name].value() for name in page.context["form"].fields}
        answer = operator.post(url(order, "cancel"), values | {"reason": "late"})
        assert answer.status_code == 422
        order.refresh_from_db()
        assert order.status == "done"
        assert not LogEntry.objects.exists()

    def test_is_resolved_with_evidence(self, manager: Client, post: Any) -> None:
        order = place("nobody")
        answer = do(manager, order, "resolve", truth="payment.failed", reason="the bank says so, ticket 12")
        assert answer.status_code == 302
        order.refresh_from_db()
        assert (order.status, order.fail_reason) == ("releasing", "resolved_by_operator")
        assert "ticket 12" in LogEntry.objects.get().change_message
        event = order.events.get(version=2)
        assert (event.data["note"], event.actor) == ("the bank says so, ticket 12", "manager")
        assert history.mismatch(order, list(order.events.all())) is None
        page = manager.get(reverse("admin:orders_order_change", args=[order.pk])).content.decode()
        assert "“the bank says so, ticket 12”" in page

    @pytest.mark.parametrize("action", ["retry", "cancel", "capture", "refund", "resolve"])
    def test_needs_permission_for_each_action(self, ann: Any, action: str) -> None:
        assert client_of("viewer").get(url(place(), action)).status_code == 403


class TestDeadLetters:
    @pytest.fixture
    def dead(self, ann: Any, post: Any) -> list[DeadLetter]:
        """Three dead letters: messages about orders that had already ended."""
        from django.db import transaction

        from processing.models import Outgoing

        orders = [place() for _ in range(3)]
        post.run()
        with transaction.atomic(using="processing"):
            Outgoing.post(*[ProcessingRefused(order_id=order.pk, reason="late") for order in orders])
        post.run()
        found = list(model_of("orders", "DeadLetter").objects.order_by("pk"))
        assert len(found) == 3
        return found

    def test_are_grouped_by_failure(self, dead: list[Any]) -> None:
        page = client_of("viewer").get(reverse("admin:dead_letters"))
        (group,) = page.context["groups"]
        assert (group["group"].dead_letters, group["actions"], group["preview"]) == (3, [], "")

    def test_show_what_a_replay_would_do(self, dead: list[Any]) -> None:
        page = client_of("operator").get(reverse("admin:orders_deadletter_preview", args=[dead[0].pk]))
        assert "It would fail again with the same error" in page.content.decode()

    def test_are_replayed(self, dead: list[Any], post: Any) -> None:
        assert do(client_of("operator"), dead[0], "replay").status_code == 302
        dead[0].refresh_from_db()
        assert dead[0].status == "replayed"
        post.run()
        assert model_of("orders", "DeadLetter").objects.filter(status="dead").count() == 3

    def test_are_discarded_by_managers_only(self, dead: list[Any], manager: Client) -> None:
        assert client_of("operator").get(url(dead[0], "discard")).status_code == 403
        assert do(manager, dead[0], "discard", reason="known").status_code == 302
        dead[0].refresh_from_db()
        assert dead[0].status == "discarded"

    def replay_run(self, client: Client, query: str, post: Any) -> Any:
        where = reverse("admin:orders_deadletter_replay") + query
        page = client.get(where)
        for _ in range(20):
            page = client.post(where, {"run": page.context["sealed"]})
            post.run()
            if page.context["run"].finished:
                return page.context["run"]
        raise AssertionError("the run does not finish")

    def test_a_replay_of_many_stops_when_the_canary_fails(self, dead: list[Any], post: Any) -> None:
        run = self.replay_run(client_of("operator"), f"?fingerprint={dead[0].fingerprint}", post)
        assert "canary failed" in run.stopped
        assert [one.status for one in model_of("orders", "DeadLetter").objects.order_by("pk")[:3]] == [
            "replayed", "dead", "dead",
        ]  # fmt: skip

    def test_a_replay_of_many_continues_after_a_handled_canary(self, dead: list[Any], post: Any) -> None:
        Order.objects.update(status="paid")
        run = self.replay_run(client_of("operator"), f"?fingerprint={dead[0].fingerprint}", post)
        assert (run.done, run.total, run.stopped) == (3, 3, "")
        assert not model_of("orders", "DeadLetter").objects.filter(status="dead").exists()
        assert LogEntry.objects.count() == 2

    def test_a_group_is_discarded_by_managers_with_a_reason(self, dead: list[Any], manager: Client) -> None:
        assert "Discard" not in str(client_of("operator").get(reverse("admin:dead_letters")).context["groups"])
        (group,) = manager.get(reverse("admin:dead_letters")).context["groups"]
        where = group["actions"][1]["url"]
        page = manager.get(where)
        form = {"once": page.context["form"]["once"].value(), "upto": page.context["upto"]}
        assert manager.post(where, form | {"reason": " "}).status_code == 422
        assert manager.post(where, form | {"reason": "ticket 7"}).status_code == 302
        bulk_runs.work_off(uuid4())
        assert [action.detail for action in dead_letters.actions(dead[0])] == [{"why": "ticket 7"}]
        assert not model_of("orders", "DeadLetter").objects.filter(status="dead").exists()

    def test_a_forged_run_is_refused(self, dead: list[Any]) -> None:
        where = reverse("admin:orders_deadletter_replay")
        assert client_of("manager", "eve").post(where, {"run": "forged"}).status_code == 404


@pytest.mark.django_db(transaction=True)
def test_clicks_at_the_same_moment_pay_once() -> None:
    account, _made = money.open_account(user_id="ann")
    client = client_of("manager")
    values = {"once": str(uuid4()), "amount": "1", "reason": "a crowd"}

    def click(_n: int) -> int:
        mine = Client()
        mine.cookies = client.cookies
        try:
            return mine.post(url(account, "deposit"), values).status_code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as threads:
        assert set(threads.map(click, range(6))) == {302}
    account.refresh_from_db()
    assert account.balance == 100
    assert LogEntry.objects.count() == 1
