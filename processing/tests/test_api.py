"""The endpoints of the catalogue."""

from typing import Any

import pytest
from django.test import Client

from processing.models import Product, StockMovement

from .factories import counters, hold, product

pytestmark = pytest.mark.django_db

SECRET = {"X-Admin-Secret": "dev-admin-secret"}
LAPTOP = {"name": "Laptop", "price": 1500.00, "stock": 10}

BAD: dict[str, list[Any]] = {
    "name": ["", "  ", None, 5, ["x"], "x" * 201, "a\x00b", "a\nb", "a\x1bb", "x" * 10_000],
    "price": [
        *(-1, "-0.01", "1.234", 1.005, None, True, [], {}, "NaN", "Infinity", "1e400"),
        *("", "x", "١٢", 2**63, 10**30, "1_000", "9" * 41),
    ],
    "stock": [-1, 1.5, 1.0, "1.5", "", None, True, [], 2**31, 2**63, 10**30, "١", "1e3"],
    "sku": ["", " ", None, 7, "x" * 65, "a\tb", "a\x00b"],
    "is_active": ["maybe", None, 2, [], {}],
}


@pytest.fixture
def client() -> Client:
    return Client(raise_request_exception=False)


def make(client: Client, body: Any, **headers: str) -> Any:
    return client.post("/admin/products", body, content_type="application/json", headers=headers or SECRET)


def change(client: Client, one: Product, body: Any, **headers: str) -> Any:
    path = f"/admin/products/{one.product_id}"
    return client.patch(path, body, content_type="application/json", headers=SECRET | headers)


class TestMakingAProduct:
    def test_answers_with_what_can_be_bought(self, client: Client) -> None:
        answer = make(client, LAPTOP)
        made = answer.json()
        assert answer.status_code == 201
        assert made == {
            "product_id": made["product_id"],
            "sku": f"product-{made['product_id']}",
            "name": "Laptop",
            "price": 1500.0,
            "currency": "USD",
            "prices": {"USD": 1500.0},
            "stock": 10,
            "held": 0,
            "is_active": True,
            "created_at": made["created_at"],
            "updated_at": made["updated_at"],
        }
        assert client.get(f"/products/{made['product_id']}").json() == made
        assert client.get(f"/products/{made['product_id'].upper()}/").json() == made

    def test_takes_its_stock_in_by_a_movement(self, client: Client) -> None:
        make(client, LAPTOP)
        (movement,) = StockMovement.objects.all()
        assert (movement.kind, movement.quantity, movement.actor) == ("received", 10, "admin secret, from 127.0.0.1")

    def test_without_stock_moves_nothing(self, client: Client) -> None:
        assert make(client, LAPTOP | {"stock": 0}).json()["stock"] == 0
        assert not StockMovement.objects.exists()

    def test_generates_a_sku_and_keeps_names_free(self, client: Client) -> None:
        assert make(client, LAPTOP).status_code == 201
        assert make(client, LAPTOP).status_code == 201
        named = make(client, {"name": "Laptop", "price": "1200.0", "stock": 5, "sku": "laptop"})
        assert (named.status_code, named.json()["sku"], named.json()["price"]) == (201, "laptop", 1200.0)

    def test_under_a_taken_sku_is_refused(self, client: Client) -> None:
        product("laptop")
        answer = make(client, LAPTOP | {"sku": "laptop"})
        assert (answer.status_code, answer.json()["code"], answer.json()["errors"]) == (
            409,
            "sku_taken",
            {"sku": ["laptop"]},
        )
        assert Product.objects.count() == 1

    def test_can_be_put_on_sale_later(self, client: Client) -> None:
        assert make(client, LAPTOP | {"is_active": False}).json()["is_active"] is False

    @pytest.mark.parametrize(
        "headers",
        [{"X-Other": "x"}, {"X-Admin-Secret": ""}, {"X-Admin-Secret": "dev-admin-secre"}, {"X-Admin-Secret": "é"}],
    )
    def test_needs_the_secret(self, client: Client, headers: dict[str, str]) -> None:
        answer = make(client, LAPTOP, **headers)
        assert (answer.status_code, answer["Content-Type"]) == (401, "application/problem+json")
        assert answer.json()["code"] == "admin_secret_needed"
        assert not Product.objects.exists()

    def test_cannot_be_guessed_at(self, client: Client) -> None:
        guesses = [make(client, LAPTOP, **{"X-Admin-Secret": f"guess-{number}"}) for number in range(5)]
        assert [answer.status_code for answer in guesses] == [401] * 5
        locked = make(client, LAPTOP)
        assert (locked.status_code, locked.json()["code"]) == (429, "locked_out")
        assert int(locked["Retry-After"]) > 800
        elsewhere = make(client, LAPTOP, **{"X-Admin-Secret": "dev-admin-secret", "X-Forwarded-For": "192.0.2.7"})
        assert elsewhere.status_code == 201
        assert StockMovement.objects.get().actor == "admin secret, from 192.0.2.7"

    def test_takes_any_secret_while_they_are_rotated(self, client: Client, settings: Any) -> None:
        settings.ADMIN_SECRETS = ["new-secret", "old-secret"]
        assert [
            make(client, LAPTOP, **{"X-Admin-Secret": secret}).status_code for secret in settings.ADMIN_SECRETS
        ] == [
            201,
            201,
        ]
        settings.ADMIN_SECRETS = []
        assert make(client, LAPTOP, **{"X-Admin-Secret": ""}).status_code == 401

    @pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
    def test_with_bad_input_is_refused_by_field(self, client: Client, field: str, value: Any) -> None:
        answer = make(client, LAPTOP | {field: value})
        assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")
        assert list(answer.json().get("errors", {field: "malformed"})) == [field]
        assert not Product.objects.exists()

    @pytest.mark.parametrize("price", ["NaN", "Infinity", "1e400", "-1e400", "1e-400", "0.1e-2"])
    def test_with_odd_numbers_is_refused(self, client: Client, price: str) -> None:
        answer = make(client, f'{{"name": "x", "stock": 1, "price": {price}}}')
        assert answer.status_code == 400
        assert not Product.objects.exists()

    @pytest.mark.parametrize("stock", ["1e2", "1.0", "9" * 4000])
    def test_with_odd_stock_is_refused(self, client: Client, stock: str) -> None:
        assert make(client, f'{{"name": "x", "stock": {stock}, "price": 1}}').status_code == 400

    @pytest.mark.parametrize("body", ["[]", "null", '"x"', "5", "{}"])
    def test_of_nothing_is_refused(self, client: Client, body: str) -> None:
        answer = make(client, body)
        assert answer.status_code == 400
        assert answer.json()["errors"]


class TestChangingAProduct:
    def test_corrects_its_stock_by_a_movement(self, client: Client) -> None:
        lamp = product("lamp", stock=10)
        hold("o1", lamp=4)
        answer = change(client, lamp, {"stock": 3})
        assert (answer.status_code, answer.json()["stock"], answer.json()["held"]) == (200, 3, 4)
        movement = StockMovement.objects.latest("at", "id")
        assert (movement.kind, movement.quantity) == ("corrected", -3)
        lamp.refresh_from_db()
        assert lamp.received == 7

    def test_by_what_was_seen_before_a_concurrent_hold_is_refused(self, client: Client) -> None:
        lamp = product("lamp", stock=13)
        etag = client.get(f"/products/{lamp.product_id}")["ETag"]
        hold("o1", lamp=4)
        answer = change(client, lamp, {"stock": 9}, **{"If-Match": etag})
        assert (answer.status_code, answer.json()["code"]) == (412, "version_conflict")
        assert counters("lamp") == (9, 4, 0)
        now = client.get(f"/products/{lamp.product_id}")
        assert (now["ETag"] != etag, now.json()["stock"], now.json()["held"]) == (True, 9, 4)
        answer = change(client, lamp, {"stock": 8}, **{"If-Match": f'"other", {now["ETag"]}'})
        assert (answer.status_code, counters("lamp")) == (200, (8, 4, 0))
        assert answer["ETag"] == client.get(f"/products/{lamp.product_id}")["ETag"]

    @pytest.mark.parametrize("header", ['"x"', "W/{etag}", "{bare}", "*"])
    def test_needs_a_strong_etag_or_any_version(self, client: Client, header: str) -> None:
        lamp = product("lamp", stock=13)
        etag = client.get(f"/products/{lamp.product_id}")["ETag"]
        given = header.format(etag=etag, bare=etag.strip('"'))
        answer = change(client, lamp, {"price": 3}, **{"If-Match": given})
        assert answer.status_code == (200 if header == "*" else 412)

    def test_shows_an_unchanged_one_as_such(self, client: Client) -> None:
        path = f"/products/{product('lamp').product_id}"
        etag = client.get(path)["ETag"]
        assert client.get(path, headers={"If-None-Match": etag}).status_code == 304
        hold("o1", lamp=1)
        assert client.get(path, headers={"If-None-Match": etag}).status_code == 200

    @pytest.mark.parametrize(("difference", "kind"), [(5, "received"), (-3, "corrected")])
    def test_moves_its_stock_by_a_difference_whatever_it_is(self, client: Client, difference: int, kind: str) -> None:
        lamp = product("lamp", stock=10)
        hold("o1", lamp=4)
        answer = change(client, lamp, {"stock_change": difference})
        assert (answer.status_code, answer.json()["stock"]) == (200, 6 + difference)
        movement = StockMovement.objects.latest("at", "id")
        assert (movement.kind, movement.quantity, movement.reason) == (kind, difference, "stock changed")

    def test_never_takes_more_than_there_is(self, client: Client) -> None:
        lamp = product("lamp", stock=10)
        hold("o1", lamp=4)
        answer = change(client, lamp, {"stock_change": -7})
        assert (answer.status_code, answer.json()["code"]) == (409, "insufficient_stock")
        assert counters("lamp") == (6, 4, 0)

    def test_to_the_stock_it_has_moves_nothing(self, client: Client) -> None:
        lamp = product("lamp", stock=10)
        assert change(client, lamp, {"stock": 10}).status_code == 200
        assert StockMovement.objects.count() == 1

    def test_changes_only_what_is_given(self, client: Client) -> None:
        lamp = product("lamp", stock=10, price=500)
        refused = change(client, lamp, {"price": 9.99, "sku": "other", "product_id": "x"})
        assert (refused.status_code, set(refused.json()["errors"])) == (400, {"sku", "product_id"})
        answer = change(client, lamp, {"price": 9.99, "is_active": False}).json()
        assert (answer["price"], answer["is_active"], answer["name"], answer["stock"], answer["sku"]) == (
            9.99,
            False,
            "Lamp",
            10,
            "lamp",
        )

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "body"),
            ({"colour": "red"}, "colour"),
            ({"stock": -1}, "stock"),
            ({"stock": 1, "stock_change": 1}, "stock_change"),
            ({"stock_change": "1"}, "stock_change"),
            ({"stock": 2.5}, "stock"),
            ({"price": "0.001"}, "price"),
            ({"name": "a\x07"}, "name"),
            ({"is_active": "perhaps"}, "is_active"),
            ({"is_active": "true"}, "is_active"),
            ({"stock": "3"}, "stock"),
            ({"price": " 1"}, "price"),
            ({"price": "1e1"}, "price"),
        ],
    )
    def test_with_bad_input_changes_nothing(self, client: Client, body: Any, field: str) -> None:
        lamp = product("lamp", stock=10)
        answer = change(client, lamp, body)
        assert (answer.status_code, list(answer.json()["errors"])) == (400, [field])
        assert StockMovement.objects.count() == 1

    def test_needs_the_secret_and_a_product(self, client: Client) -> None:
        lamp = product("lamp")
        path = f"/admin/products/{lamp.product_id}"
        assert client.patch(path, {"stock": 1}, content_type="application/json").status_code == 401
        nobody = Product(sku="x")
        assert change(client, nobody, {"stock": 1}).status_code == 404


class TestTheCatalogue:
    @pytest.mark.parametrize(("sort", "step"), [("", -1), ("-created_at", -1), ("created_at", 1)])
    def test_is_paged_newest_first_unless_sorted_otherwise(self, client: Client, sort: str, step: int) -> None:
        skus = [product(f"p{number}").sku for number in range(5)]
        seen, path = [], f"/products?limit=2&sort={sort}"
        while path:
            page = client.get(path).json()
            assert len(page["results"]) <= 2
            seen += [one["sku"] for one in page["results"]]
            path = page["next"]
        assert seen == skus[::step]

    def test_is_filtered(self, client: Client) -> None:
        product("lamp")
        product("gone", is_active=False)
        found = [
            [one["sku"] for one in client.get(f"/products{query}").json()["results"]]
            for query in (
                "", "?is_active=true&limit=20", "?is_active=false", "?sku=lamp", "?is_active=&sku=&name=", "?name=AM",
                "?name=ONE%20g", "?name=one%20x", "?name=l%25p", "?name=la_p", "?name=lamp&is_active=false",
            )
        ]  # fmt: skip
        both = ["gone", "lamp"]
        assert found == [both, ["lamp"], ["gone"], ["lamp"], both, ["lamp"], ["gone"], [], [], [], []]

    @pytest.mark.parametrize(
        "query",
        [
            "limit=0",
            "limit=-1",
            "limit=x",
            "limit=1.5",
            "is_active=perhaps",
            "page=2",
            "sku=a%00b",
            "sku=" + "x" * 65,
            "name=" + "x" * 201,
            "name=a%00b",
            "sort=price",
        ],
    )
    def test_refuses_invalid_queries_by_name(self, client: Client, query: str) -> None:
        answer = client.get(f"/products?{query}")
        assert (answer.status_code, list(answer.json()["errors"])) == (400, [query.split("=")[0]])

    @pytest.mark.parametrize("cursor", ["x", "cD0x", "cD1hYg==", "bz0tMQ==", "bz0xMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA="])
    def test_refuses_a_made_up_cursor(self, client: Client, cursor: str) -> None:
        product("lamp")
        answer = client.get("/products", {"cursor": cursor})
        assert (answer.status_code, list(answer.json()["errors"])) == (400, ["cursor"])

    def test_has_pages_of_at_most_a_hundred(self, client: Client) -> None:
        Product.objects.bulk_create(Product(sku=str(n), name="x", price=1, currency="USD") for n in range(101))
        assert len(client.get("/products?limit=100").json()["results"]) == 100
        assert client.get("/products?limit=101").status_code == 400

    def test_runs_as_many_queries_for_many_as_for_few(self, client: Client, django_assert_num_queries: Any) -> None:
        for number in range(20):
            product(f"p{number}")
        with django_assert_num_queries(2, using="processing"):  # the products, and all their other prices
            client.get("/products?limit=20")

    def test_has_no_page_of_an_unknown_product(self, client: Client) -> None:
        assert client.get("/products/00000000-0000-0000-0000-000000000000").status_code == 404
        assert client.get("/products/lamp").status_code == 404

    def test_can_be_browsed_by_a_person(self, client: Client) -> None:
        lamp = product("lamp")
        for path in ("/products", f"/products/{lamp.product_id}"):
            page = client.get(path, headers={"Accept": "text/html"})
            assert (page.status_code, page["Content-Type"]) == (200, "text/html; charset=utf-8")
            assert b"lamp" in page.content


def test_the_admin_stays_where_it_was(client: Client) -> None:
    assert client.get("/admin/login/").status_code == 200
    assert client.get("/admin/products").status_code == 405
