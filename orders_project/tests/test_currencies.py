"""More than one currency: each amount is checked, paid, refunded and summed in its own, and none is converted."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.test import Client
from django.utils import timezone

from common import authority
from orders.models import Order
from orders_project.audit import audit
from orders_project.http import pages
from orders_project.tests.test_returns import Stub, stub
from payments import services as money
from payments.models import Account, Entry, Payment
from processing import services as stock
from processing.models import Product

__all__ = ["stub"]

pytestmark = pytest.mark.django_db

NOW = timezone.now()
SECRET = {"X-Admin-Secret": "dev-admin-secret"}
LAMP = {"name": "Lamp", "sku": "lamp", "price": 3, "stock": 10}
IN_EACH = {"USD": 3.0, "EUR": 2.8, "JPY": 450.0, "KWD": 0.925}


@pytest.fixture(autouse=True)
def currencies(settings: Any) -> None:
    settings.CURRENCIES = ("USD", "EUR", "JPY", "KWD")
    settings.RATE_LIMIT_ORDERS_PER_MINUTE = 0


def call(client: Client, method: str, path: str, body: dict[str, Any] | None = None, **headers: str) -> tuple[int, Any]:
    answer = client.generic(method, path, json.dumps(body or {}), content_type="application/json", headers=headers)
    return answer.status_code, answer.json()


def make(client: Client, **fields: Any) -> tuple[int, Any]:
    return call(client, "POST", "/admin/products", LAMP | fields, **SECRET)


def change(client: Client, product_id: str, **fields: Any) -> tuple[int, Any]:
    return call(client, "PATCH", f"/admin/products/{product_id}", fields, **SECRET)


def place(client: Client, **fields: Any) -> tuple[int, Any]:
    return call(client, "POST", "/orders", {"user_id": "ann"} | fields)


def amount(client: Client, value: Any, currency: str) -> tuple[int, Any]:
    return place(client, amount=value, currency=currency)


class TestTheCatalogue:
    def test_has_a_price_for_each_currency(self, client: Client) -> None:
        status, lamp = make(client, prices={"EUR": 2.8, "JPY": "450", "KWD": 0.925})
        assert (status, lamp["price"], lamp["currency"], lamp["prices"]) == (201, 3.0, "USD", IN_EACH)
        assert client.get(f"/products/{lamp['product_id']}").json() == lamp
        assert client.get("/products").json()["results"] == [lamp]

    def test_may_name_the_price_in_its_own_currency_twice_but_not_two_of_them(self, client: Client) -> None:
        assert make(client, prices={"USD": 3, "EUR": 2})[1]["prices"] == {"USD": 3.0, "EUR": 2.0}
        status, problem = make(client, sku="other", prices={"USD": 4})
        assert (status, problem["code"], list(problem["errors"])) == (400, "two_prices", ["prices.USD"])
        assert Product.objects.count() == 1

    @pytest.mark.parametrize(
        "prices",
        [
            {"GBP": 1},
            {"JPY": 1.5},
            {"EUR": 2.801},
            {"KWD": "0.0001"},
            {"EUR": None},
            {"EUR": -1},
            {"EUR": True},
            [],
            "x",
        ],
    )
    def test_refuses_prices_that_are_none(self, client: Client, prices: Any) -> None:
        status, problem = make(client, prices=prices)
        assert (status, problem["code"]) == (400, "invalid")
        assert all(name.startswith("prices") for name in problem["errors"])
        assert not Product.objects.exists()

    def test_changes_adds_and_ends_prices(self, client: Client) -> None:
        lamp = make(client, prices={"EUR": 2.8, "JPY": 450})[1]["product_id"]
        status, changed = change(client, lamp, prices={"EUR": None, "JPY": 500, "KWD": 1})
        assert (status, changed["prices"]) == (200, {"USD": 3.0, "JPY": 500.0, "KWD": 1.0})
        status, changed = change(client, lamp, prices={"USD": 4})
        assert (status, changed["price"], changed["prices"]["USD"]) == (200, 4.0, 4.0)
        status, problem = change(client, lamp, prices={"USD": None})
        assert (status, problem["code"]) == (400, "two_prices")

    def test_takes_a_change_of_price_for_the_version_it_was_meant_for_alone(self, client: Client) -> None:
        made = client.post("/admin/products", LAMP, content_type="application/json", headers=SECRET)
        path, seen = f"/admin/products/{made.json()['product_id']}", made["ETag"]
        assert call(client, "PATCH", path, {"prices": {"EUR": 1}}, **SECRET, **{"If-Match": seen})[0] == 200
        assert call(client, "PATCH", path, {"prices": {"EUR": 2}}, **SECRET, **{"If-Match": seen})[0] == 412

    def test_reads_the_price_of_a_product_in_the_currency_of_the_product(self, client: Client) -> None:
        lamp = make(client)[1]["product_id"]
        Product.objects.update(currency="JPY", price=450)
        assert change(client, lamp, price=1.5)[0] == 400
        assert change(client, lamp, price=451)[1]["prices"] == {"JPY": 451.0}

    def test_is_asked_once_wherever_a_product_has_its_price(
        self, client: Client, django_assert_num_queries: Any
    ) -> None:
        lamp = make(client, prices={"EUR": 2})[1]["product_id"]
        with django_assert_num_queries(1, using="processing"):
            assert [one.price for one in stock.offers(currency="USD", skus=["lamp"])] == [300]
        with django_assert_num_queries(1, using="processing"):
            assert [one.price for one in stock.offers(currency="EUR", product_ids=[lamp])] == [200]
        assert [one.price for one in stock.offers(currency="JPY", skus=["lamp"])] == [None]


class TestAnOrder:
    @pytest.mark.parametrize(
        ("value", "currency"), [(100, "JPY"), ("100.00", "JPY"), (1.234, "KWD"), ("1.23", "EUR"), (1.2, "USD")]
    )
    def test_has_amounts_of_its_currency(self, client: Client, value: Any, currency: str) -> None:
        status, order = amount(client, value, currency)
        assert (status, order["total_amount"], order["currency"]) == (201, float(value), currency)

    @pytest.mark.parametrize(("value", "currency"), [(100.5, "JPY"), (1.2345, "KWD"), (1.234, "EUR"), (1.234, "USD")])
    def test_refuses_more_decimals_than_its_currency_has(self, client: Client, value: Any, currency: str) -> None:
        status, problem = amount(client, value, currency)
        assert (status, list(problem["errors"])) == (400, ["amount"])
        assert currency in problem["errors"]["amount"][0]

    @pytest.mark.parametrize("currency", ["GBP", "usd", "XXX", 5, ["USD"], {}])
    def test_is_in_none_but_the_configured_currencies(self, client: Client, currency: Any) -> None:
        status, problem = place(client, amount=1, currency=currency)
        assert (status, list(problem["errors"])) == (400, ["currency"])

    @pytest.mark.parametrize("fields", [{}, {"currency": ""}, {"currency": None}, {"currency": "USD"}])
    def test_is_in_the_default_one_otherwise(self, client: Client, fields: dict[str, Any]) -> None:
        first = place(client, amount=1.25, order_id="o-1")
        again = place(client, amount=1.25, order_id="o-1", **fields)
        assert (first[0], again[0], again[1]["currency"]) == (201, 200, "USD")

    def test_of_the_same_id_in_another_currency_is_another_order(self, client: Client) -> None:
        assert amount(client, 1, "USD")[0] == 201
        assert place(client, amount=1, order_id="o-1")[0] == 201
        status, problem = place(client, amount=1, order_id="o-1", currency="EUR")
        assert (status, problem["code"]) == (409, "order_exists")

    @pytest.mark.parametrize("currency", IN_EACH)
    def test_is_priced_by_the_catalogue_in_its_currency(self, client: Client, currency: str) -> None:
        lamp = make(client, prices={name: price for name, price in IN_EACH.items() if name != "USD"})[1]["product_id"]
        status, order = place(client, items=[{"product_id": lamp, "quantity": 2}], currency=currency)
        assert (status, order["currency"]) == (201, currency)
        assert (order["total_amount"], order["items"][0]["price"]) == (2 * IN_EACH[currency], IN_EACH[currency])
        line = {"sku": "lamp", "quantity": 1, "price": IN_EACH[currency]}
        assert place(client, items=[line], currency=currency)[0] == 201
        status, problem = place(client, items=[line | {"price": 9}], currency=currency)
        assert (status, problem["code"]) == (409, "price_changed")

    def test_of_a_product_without_a_price_in_its_currency_is_refused(self, client: Client) -> None:
        lamp = make(client, prices={"EUR": 2.8})[1]["product_id"]
        status, problem = place(client, items=[{"product_id": lamp, "quantity": 1}], currency="JPY")
        assert (status, problem["code"], list(problem["errors"])) == (409, "wrong_currency", ["items[0].product_id"])
        assert not Order.objects.exists()
        assert Product.objects.get().held == 0

    def test_sums_taxes_and_discounts_in_its_currency(self, client: Client) -> None:
        items = [
            {"sku": "book", "quantity": 1, "price": 1.005},
            {"type": "tax", "name": "VAT", "amount": "0.051", "of": 1},
            {"type": "discount", "name": "Regular", "amount": 0.006},
        ]
        status, order = place(client, items=items, currency="KWD", total_amount=1.05)
        assert (status, order["total_amount"]) == (201, 1.05)
        assert (order["tax_amount"], order["discount_amount"]) == (0.051, 0.006)


class TestAccounts:
    def test_are_one_for_each_currency(self, client: Client) -> None:
        opened = {currency: call(client, "POST", f"/accounts?user_id=ann&currency={currency}") for currency in IN_EACH}
        assert {currency: (status, one["currency"]) for currency, (status, one) in opened.items()} == {
            currency: (201, currency) for currency in IN_EACH
        }
        assert call(client, "POST", "/accounts?user_id=ann") == (200, opened["USD"][1])
        assert call(client, "POST", "/accounts?user_id=ann&currency=EUR") == (200, opened["EUR"][1])
        assert call(client, "POST", "/accounts", {"user_id": "ann", "currency": "EUR"}) == (200, opened["EUR"][1])
        assert Account.objects.count() == len(IN_EACH)

    def test_are_one_alone_for_each_currency_in_the_database(self) -> None:
        account, _ = money.open_account(user_id="ann", currency="EUR")
        with pytest.raises(IntegrityError), transaction.atomic(using="payments"):
            Account(user_id="ann", currency="EUR").save(force_insert=True)
        assert money.open_account(user_id="ann", currency="EUR") == (account, False)

    @pytest.mark.parametrize("query", ["currency=GBP", "currency=eur", "currency=USD&currency=EUR"])
    def test_are_in_none_but_the_configured_currencies(self, client: Client, query: str) -> None:
        status, problem = call(client, "POST", f"/accounts?user_id=ann&{query}")
        assert (status, list(problem["errors"])) == (400, ["currency"])

    def test_take_deposits_of_their_currency(self, client: Client) -> None:
        for currency in ("USD", "JPY"):
            money.open_account(user_id="ann", currency=currency)
        assert call(client, "POST", "/accounts/ann/deposit?currency=JPY", {"amount": 100.5})[0] == 400
        assert call(client, "POST", "/accounts/ann/deposit?currency=JPY", {"amount": 100})[1]["balance"] == 100.0
        assert call(client, "POST", "/accounts/ann/deposit", {"amount": 1.5})[1]["balance"] == 1.5
        balances = {one: client.get(f"/accounts/ann/balance{one}").json()["balance"] for one in ("", "?currency=JPY")}
        assert balances == {"": 1.5, "?currency=JPY": 100.0}
        entries = client.get("/accounts/ann/entries?currency=JPY").json()["results"]
        assert [(one["amount"], one["currency"]) for one in entries] == [(100.0, "JPY")]

    def test_have_keys_of_their_own(self, client: Client) -> None:
        for currency in ("USD", "EUR"):
            money.open_account(user_id="ann", currency=currency)
        key = {"Idempotency-Key": "k"}
        assert call(client, "POST", "/accounts/ann/deposit?currency=EUR", {"amount": 1}, **key)[0] == 200
        status, problem = call(client, "POST", "/accounts/ann/deposit", {"amount": 1}, **key)
        assert (status, problem["code"]) == (409, "idempotency_key_reused")
        assert Account.objects.get(currency="USD", kind="customer").balance == 0

    def test_are_found_without_their_currency_if_they_are_the_only_one(self, client: Client) -> None:
        money.open_account(user_id="ann", currency="JPY")
        assert client.get("/accounts/ann/balance").json()["currency"] == "JPY"
        assert call(client, "POST", "/accounts/ann/deposit", {"amount": 7})[1]["balance"] == 7.0

    def test_are_to_be_named_if_there_are_several_and_none_in_the_default_currency(self, client: Client) -> None:
        for currency in ("EUR", "JPY"):
            money.open_account(user_id="ann", currency=currency)
        status, problem = call(client, "GET", "/accounts/ann/balance")
        assert (status, problem["code"]) == (409, "currency_mismatch")
        assert "EUR, JPY" in problem["detail"]

    def test_that_do_not_exist_are_not_found(self, client: Client) -> None:
        money.open_account(user_id="ann", currency="EUR")
        for path in (
            "/accounts/ann/balance?currency=JPY",
            "/accounts/ann/entries?currency=GBP",
            "/accounts/bob/balance",
        ):
            assert call(client, "GET", path)[0] == 404, path

    def test_in_another_currency_wait_for_the_end_of_an_upgrade(self, client: Client, settings: Any) -> None:
        """The release before finds an account by its user, and has one for each."""
        settings.UPGRADING = True
        status, problem = call(client, "POST", "/accounts?user_id=ann&currency=EUR")
        assert (status, problem["code"]) == (503, "not_during_upgrade")
        assert call(client, "POST", "/accounts?user_id=ann")[0] == 201
        assert call(client, "POST", "/accounts?user_id=ann&currency=EUR")[0] == 503
        assert call(client, "POST", "/accounts?user_id=ann")[0] == 200
        settings.UPGRADING = False
        assert call(client, "POST", "/accounts?user_id=ann&currency=EUR")[0] == 201


def fund(**amounts: int) -> None:
    for currency, minor in amounts.items():
        money.open_account(user_id="ann", currency=currency)
        if minor:
            money.deposit(user_id="ann", currency=currency, amount=minor, now=NOW)


def findings() -> list[Any]:
    """What the audit finds where nothing counts as in flight."""
    return list(audit(grace=timedelta(0), settle=timedelta(0)).findings)


def balances() -> dict[str, int]:
    return dict(Account.objects.filter(kind="customer").order_by("currency").values_list("currency", "balance"))


class TestPaying:
    @pytest.mark.parametrize(("currency", "value", "minor"), [("JPY", 500, 500), ("KWD", 1.234, 1234), ("EUR", 5, 500)])
    def test_takes_the_money_from_the_account_of_the_currency(
        self, client: Client, post: Any, currency: str, value: Any, minor: int
    ) -> None:
        fund(USD=10_000, **{currency: minor + 1})
        order_id = amount(client, value, currency)[1]["order_id"]
        post.run()
        order = client.get(f"/orders/{order_id}").json()
        assert (order["status"], order["total_amount"], order["currency"]) == ("done", float(value), currency)
        assert balances() == {"USD": 10_000, currency: 1}
        charge = Entry.objects.select_related("source", "target").get(kind="charge")
        assert {charge.currency, charge.source.currency, charge.target.currency} == {currency}
        assert findings() == []

    @pytest.mark.parametrize(
        ("funds", "reason"), [({}, "no_account"), ({"USD": 10_000, "EUR": 10_000}, "currency_mismatch")]
    )
    def test_takes_it_from_no_other_account(
        self, client: Client, post: Any, funds: dict[str, int], reason: str
    ) -> None:
        fund(**funds)
        order_id = amount(client, 100, "JPY")[1]["order_id"]
        post.run()
        order = client.get(f"/orders/{order_id}").json()
        assert (order["status"], order["fail_reason"]) == ("failed", reason)
        assert not Entry.objects.filter(kind="charge").exists()
        assert balances() == funds

    def test_takes_no_more_than_is_on_it(self, client: Client, post: Any) -> None:
        fund(USD=10_000, JPY=99)
        order_id = amount(client, 100, "JPY")[1]["order_id"]
        post.run()
        assert client.get(f"/orders/{order_id}").json()["fail_reason"] == "insufficient_funds"
        assert balances() == {"JPY": 99, "USD": 10_000}

    @pytest.mark.parametrize(("currency", "value", "minor"), [("JPY", 500, 500), ("KWD", 1.234, 1234), ("EUR", 5, 500)])
    def test_asks_the_gateway_for_the_amount_in_the_currency(
        self, client: Client, post: Any, stub: Stub, currency: str, value: Any, minor: int
    ) -> None:
        status, order = call(
            client, "POST", "/orders", {"user_email": "ann@example.com", "amount": value, "currency": currency}
        )
        post.run()
        assert status == 201
        assert client.get(f"/orders/{order['order_id']}").json()["status"] == "done"
        assert [(one.amount, one.currency) for one in stub.payments.values()] == [(minor, currency)]
        entry = Entry.objects.select_related("source", "target").get()
        assert (entry.amount, entry.currency, entry.source.currency, entry.target.currency) == (minor, *[currency] * 3)
        assert Payment.objects.get().currency == currency
        assert findings() == []


class TestTheAudit:
    def test_finds_an_order_in_another_currency_than_its_money(self, client: Client, post: Any) -> None:
        fund(JPY=100)
        order_id = amount(client, 100, "JPY")[1]["order_id"]
        post.run()
        Order.objects.update(currency="KWD")
        assert [(found.check, found.subject) for found in findings()] == [("currencies", order_id)]

    def test_finds_an_order_whose_total_is_not_that_of_its_lines(self, client: Client, post: Any) -> None:
        fund(USD=1700)
        item = {"sku": "book", "quantity": 2, "price": 10}
        discount = {"type": "discount", "name": "x", "amount": 3}
        order_id = place(client, items=[item, discount])[1]["order_id"]
        post.run()
        assert findings() == []
        Order.objects.update(total=2000)
        (found,) = [found for found in findings() if found.check == "totals"]
        assert (found.order_id, found.detail) == (order_id, "its total is 2000, and its lines sum to 1700")

    def test_does_not_set_one_currency_off_against_another(self, client: Client) -> None:
        fund(USD=100, JPY=100)
        Account.objects.filter(kind="customer", currency="USD").update(balance=150)
        Account.objects.filter(kind="customer", currency="JPY").update(balance=50)
        assert {found.check for found in findings()} == {"ledger"}
        assert len(findings()) == 2


class TestLimitsOfStaff:
    @pytest.mark.parametrize(("currency", "minor"), [("USD", 1000_00), ("JPY", 150_000), ("KWD", 300_000)])
    def test_are_set_for_each_currency(self, settings: Any, currency: str, minor: int) -> None:
        settings.REFUND_APPROVAL_LIMITS = {"JPY": 150_000, "KWD": 300}
        eve = authority.Authority("eve", is_staff=True)
        eve.permit(minor, currency)
        with pytest.raises(authority.NeedsSecondPerson):
            eve.permit(minor + 1, currency)


@pytest.fixture
def described_anew() -> Iterator[None]:
    """The description of the API is made once a process: those of other tests know other currencies."""
    pages._description.cache_clear()
    yield
    pages._description.cache_clear()


def test_the_description_of_the_api_knows_them(client: Client, described_anew: None) -> None:
    schemas = client.get("/schema?format=json").json()["components"]["schemas"]
    new, product = (schemas[name]["properties"] for name in ("NewOrderRequest", "NewProductRequest"))
    number, text, _null = new["amount"]["oneOf"]
    assert number["minimum"] == 0.001
    understood = [one for one in ("100", "1.234", "1.2345", "0") if re.search(text["pattern"], one)]
    assert understood == ["100", "1.234"]
    assert new["currency"]["oneOf"][0]["pattern"] == "^(USD|EUR|JPY|KWD)$"
    prices = product["prices"]["properties"]
    assert set(prices) == set(IN_EACH)
    in_yen, in_dinar = (prices[currency]["oneOf"][1]["pattern"] for currency in ("JPY", "KWD"))
    assert (bool(re.search(in_yen, "1.5")), bool(re.search(in_dinar, "1.505"))) == (False, True)
