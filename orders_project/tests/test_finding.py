"""What people look for is found, in upper and lower case; and what they have found can be taken away as a file."""

import csv
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from common.admin import ReadOnlyAdmin, export, pages
from common.search import PartIndex
from orders import factories, services
from orders.models import Order, Outgoing
from processing import services as stock

pytestmark = pytest.mark.django_db


def found(boss: Client, model: str, query: str, **more: str) -> list[Any]:
    answer = boss.get(reverse(f"admin:{model}_changelist"), {"q": query, **more})
    assert answer.status_code == 200
    return list(answer.context["cl"].result_list)


class TestTheNumber:
    def test_is_told_by_every_representation_and_finds_the_order(self, client: Client) -> None:
        first, second = (
            client.post("/orders", {"user_id": "ann", "amount": 5}, content_type="application/json").json()
            for _ in range(2)
        )
        number = first["number"]
        assert 1000 < number < second["number"]
        assert client.get(f"/orders/{first['order_id']}").json() == first
        assert client.get("/orders", {"number": number}).json()["results"] == [first]
        assert client.get("/orders", {"number": "1e3"}).status_code == 200
        assert client.get("/orders", {"number": "many"}).status_code == 400
        told = Outgoing.objects.get(subject=first["order_id"], type="order.created")
        assert told.data["number"] == number
        for name in (str(number), f"#{number}", first["order_id"]):
            out = StringIO()
            call_command("order", name, stdout=out)
            assert first["order_id"] in out.getvalue()

    def test_leads_to_an_order_like_the_id_that_its_client_gave_it(self) -> None:
        """`manage.py order` lists the orders that several clients call the same, also if one has it as its number."""

        def shown(name: str) -> str:
            out = StringIO()
            call_command("order", name, stdout=out)
            return out.getvalue()

        shop, other = (factories.order(order_id="mine", principal=principal) for principal in ("shop", "other"))
        named_so = factories.order(order_id=str(shop.number), principal="other")
        with pytest.raises(CommandError) as refusal:
            shown("mine")
        for order in (shop, other):
            assert f"#{order.number}  {order.order_id}  {order.principal}" in str(refusal.value)
            assert order.order_id in shown(order.order_id)
        with pytest.raises(CommandError, match=named_so.order_id):
            shown(str(shop.number))
        assert shop.order_id in shown(f"#{shop.number}")
        Order.objects.filter(pk=other.pk).update(reference="theirs")
        assert shop.order_id in shown("mine")
        for nobody in ("", "#mine", "nobody"):
            with pytest.raises(CommandError, match="There is no order"):
                shown(nobody)

    def test_is_given_to_orders_of_processes_that_do_not_know_it(self) -> None:
        order = factories.order()
        fields = [
            str(field.column) for field in Order._meta.concrete_fields if field.name not in ("order_id", "number")
        ]
        columns = ", ".join(fields)
        with connections["orders"].cursor() as cursor:
            cursor.execute(f"INSERT INTO orders_order (order_id, {columns}) SELECT 'old', {columns} FROM orders_order")
        numbers = set(Order.objects.values_list("number", flat=True))
        assert len(numbers) == 2
        assert None not in numbers
        newest: Any = Order.objects.get(pk="old")
        assert newest.number > order.number


class TestOrders:
    @pytest.mark.parametrize(
        ("term", "is_part"),
        [
            ("Ann.Lee@Example.com", False), ("ann.lee@example.COM", False), ("ANN.L", False), ("ann", False),
            ("U-77", False), ("u-7", False), ("cust", False), (" CUSTOMER-1 ", False), ("sh", False),
            ("n.lee@", True), ("XAMPLE", True), ("tomer-1", True), ("customer lee", True),
        ],
    )  # fmt: skip
    def test_are_found_by_any_part_of_what_they_are_called_by(
        self, boss: Client, monkeypatch: pytest.MonkeyPatch, term: str, is_part: bool
    ) -> None:
        names: dict[str, Any] = {"user_id": "U-77", "user_email": "Ann.Lee@example.com", "customer_id": "Customer-1"}
        lines = (services.Line(sku="Shoe-9", quantity=1, price=500),)
        new = services.NewOrder(lines=lines, principal="", **names)
        order, _is_new = services.place_order(new=new, now=timezone.now(), actor="")
        factories.order(user_id="bob", user_email="", customer_id="")
        assert found(boss, "orders_order", term) == [order]
        monkeypatch.setattr(PartIndex, "is_there", lambda self, using: False)
        assert found(boss, "orders_order", term) == ([] if is_part else [order])

    @pytest.mark.parametrize("name", ["{}", "#{}", " {} "])
    def test_are_found_by_their_number(self, boss: Client, name: str) -> None:
        factories.order()
        order = factories.order()
        assert found(boss, "orders_order", name.format(order.number)) == [order]

    @pytest.mark.parametrize("term", ["%", "_", "a%", "ann%exa", "a_n@exa", "'", "\\", "nobody", "9" * 30])
    def test_are_not_found_by_what_is_not_theirs(self, boss: Client, term: str) -> None:
        factories.order(user_id="u1", user_email="ann@example.com")
        assert found(boss, "orders_order", term) == []

    @pytest.mark.parametrize(("term", "near"), [("nna", 0), ("nna", 99), ("an", 0), ("c-", 0), ("SHOE", 0)])
    def test_that_are_too_many_are_met_on_the_way_the_newest_first(
        self, boss: Client, monkeypatch: pytest.MonkeyPatch, term: str, near: int
    ) -> None:
        monkeypatch.setattr(ReadOnlyAdmin, "list_per_page", 2)
        monkeypatch.setattr(pages, "MOST_FOUND", 2)
        monkeypatch.setattr(pages, "SCAN_ROWS", 3)
        monkeypatch.setattr(pages, "NEAR_ROWS", near + 1)
        orders = []
        for number in range(8):
            lines = (services.Line(sku="shoe-9" if number % 2 else "hat", quantity=1, price=500),)
            names: dict[str, Any] = (
                {"user_id": "anna", "user_email": "c-1@example.com"} if number % 2 else {"user_id": "bob"}
            )
            new = services.NewOrder(lines=lines, principal="", **names)
            orders.append(services.place_order(new=new, now=timezone.now(), actor="")[0])
        url, shown = reverse("admin:orders_order_changelist"), []
        query = f"?q={term}"
        while query:
            changes = boss.get(url + query).context["cl"]
            shown += changes.result_list
            query = changes.older_url
        assert shown == orders[:0:-2]

    def test_with_the_number_that_is_asked_for_come_first(self, boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ReadOnlyAdmin, "list_per_page", 2)
        order = factories.order()
        others = [factories.order(user_id=f"user-{order.number}") for _ in range(3)]
        assert found(boss, "orders_order", str(order.number)) == [order, others[2], others[1]]

    def test_of_an_email_are_found_by_the_api_in_any_case(self, client: Client) -> None:
        for email in ("Ann@Example.com", "ann@example.com", "annb@example.com"):
            factories.order(user_id="", user_email=email)
        answer = client.get("/orders", {"user_email": "ANN@example.COM"}).json()
        assert {order["user_email"] for order in answer["results"]} == {"Ann@Example.com", "ann@example.com"}


class TestTheList:
    def test_is_sorted_by_columns_that_have_an_index_page_by_page(
        self, boss: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ReadOnlyAdmin, "list_per_page", 2)
        orders = [factories.order() for _ in range(5)]
        url = reverse("admin:orders_order_changelist")
        columns = boss.get(url).context["cl"].list_display
        for sort, expected in (
            (columns.index("number"), orders),
            (-columns.index("number"), orders[::-1]),
            (columns.index("created_at"), orders),
            (columns.index("payment_method"), orders[::-1]),  # which has none: the usual order
            (99, orders[::-1]),
        ):
            query, shown = f"?o={sort}", []
            while query:
                changes = boss.get(url + query).context["cl"]
                shown += changes.result_list
                assert f"o={sort}" in changes.get_query_string()
                query = changes.older_url
            assert shown == expected
        changes = boss.get(url, {"o": columns.index("number"), "older": "WzFd"}).context
        assert changes is None or "cl" not in changes  # a cursor of another order

    @pytest.mark.parametrize("model", ["orders_order", "orders_orderevent", "payments_payment"])
    def test_is_of_the_days_that_are_asked_for(self, boss: Client, model: str, post: Any) -> None:
        factories.order()
        post.run()
        url, today = reverse(f"admin:{model}_changelist"), timezone.localdate()
        day = timedelta(days=1)
        for since, until, is_shown in (
            (today, today, True), (today - day, today + day, True), (today, "", True), ("", today, True),
            (today + day, "", False), ("", today - day, False),
        ):  # fmt: skip
            changes = boss.get(url, {"from": str(since), "to": str(until)}).context["cl"]
            assert bool(changes.result_list) == is_shown, (since, until)
        assert boss.get(url, {"from": "yesterday"}).status_code == 302
        page = boss.get(url, {"from": "2020-01-01", "q": "ann", "age": "day"}).content.decode()
        assert 'name="from" value="2020-01-01"' in page
        assert '<input type="hidden" name="q" value="ann">' in page

    def test_of_payments_has_the_newest_first(self, boss: Client, post: Any) -> None:
        for name in ("z", "a"):
            factories.order(order_id=name)
        post.run()
        assert [one.pk for one in found(boss, "payments_payment", "")] == ["a", "z"]


@pytest.mark.parametrize(
    ("term", "is_found"),
    [
        ("lamp", True), ("LAM", True), ("desk la", True), ("lamp de", True), ("dl-20", True), ("DL-2000", True),
        ("2000", True), ("o'neil", True), ("esk-la", True), ("L-200", True), ("amp neil", True),
        ("ето", True), ("stan", False), ("sofa", False), ("desk sofa", False), ("'", False),
        (":*", False), ("&|!", False), ("Ле", True),
    ],
)  # fmt: skip
def test_products_are_found_by_parts_of_their_name_and_sku(boss: Client, term: str, is_found: bool) -> None:
    now = timezone.now()
    lamp = stock.make_product(name="Desk-Lamp (O'Neil) лето", sku="DL-2000", price=5_00, stock=1, actor="boss", now=now)
    stock.make_product(name="Chair", sku="ch-1", price=5_00, stock=1, actor="boss", now=now)
    assert found(boss, "processing_product", term) == [lamp] * is_found


class TestTheFile:
    URL = "/admin/orders/order/export/"

    def lines(self, boss: Client, url: str = URL, **form: Any) -> list[list[str]]:
        answer: Any = boss.post(url, form)
        assert answer.status_code == 200
        assert answer["Content-Disposition"] == 'attachment; filename="order.csv"'
        return list(csv.reader(StringIO(answer.getvalue().decode(), newline="")))

    def test_has_every_row_of_the_filtered_list_in_the_chosen_columns(
        self, boss: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(export, "ROWS", 2)
        orders = [factories.order(amount=100 + number) for number in range(5)]
        factories.order(user_id="bob")
        header, *rows = self.lines(boss, f"{self.URL}?q=ANN", columns=["order_id", "total", "currency", "created_at"])
        assert header == ["order_id", "total", "currency", "created_at"]
        assert [row[:3] for row in rows] == [[one.pk, f"1.0{n}", "USD"] for n, one in reversed([*enumerate(orders)])]
        assert rows[-1][3] == orders[0].created_at.isoformat().replace("+00:00", "Z")
        log = LogEntry.objects.get()
        assert log.change_message == "Export as CSV where q=ANN. Columns: order_id, total, currency, created_at."

    @pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
    def test_has_no_formulas(self, boss: Client, text: str) -> None:
        Order.objects.filter(pk=factories.order().pk).update(description=text)
        assert self.lines(boss, columns=["description"])[1] == [f"'{text}"]

    def test_tells_excel_its_encoding_if_asked(self, boss: Client) -> None:
        factories.order()
        for form, beginning in (({}, b"order_id"), ({"with_bom": "on"}, b"\xef\xbb\xbforder_id")):
            answer: Any = boss.post(self.URL, {"columns": "order_id", **form})
            assert answer.getvalue().startswith(beginning)

    def test_says_where_it_was_cut_off(self, boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(export, "ROWS", 2)
        monkeypatch.setattr(export, "MAX_SECONDS", 0)
        for _ in range(3):
            factories.order()
        *_rows, last = self.lines(boss, columns=["order_id"])
        assert (len(_rows), last[0].split(" because")[0]) == (3, "The export ended here,")

    def test_is_for_those_who_may_see_the_list_and_has_what_the_page_has(self, boss: Client) -> None:
        assert boss.post(self.URL, {"columns": "fingerprint"}).status_code == 422
        assert boss.post(self.URL, {}).status_code == 422
        assert boss.post(f"{self.URL}?fingerprint__regex=a", {"columns": "order_id"}).status_code == 400
        stranger = Client()
        stranger.force_login(User.objects.create_user("stranger", is_staff=True))
        assert stranger.get(self.URL).status_code == 403
        assert stranger.post(self.URL, {"columns": "order_id"}).status_code == 403

    def test_can_be_made_of_every_list(self, boss: Client) -> None:
        factories.order()
        for model, page in admin.site._registry.items():
            if isinstance(page, ReadOnlyAdmin):
                url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_export")
                form = boss.get(url).context["form"]
                answer: Any = boss.post(url, {"columns": [name for name, _ in form.fields["columns"].choices]})
                assert answer.getvalue(), model
