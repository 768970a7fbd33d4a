"""Query parameters: every endpoint refuses those that its description does not name, and those that are repeated."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLResolver, get_resolver
from django.utils import timezone
from drf_spectacular.generators import EndpointEnumerator
from rest_framework.test import APIRequestFactory

from common import parameters
from orders import factories
from orders.models import Order, WebhookEndpoint
from orders_project.contracts import openapi
from payments import services
from payments.models import Account, Entry

pytestmark = pytest.mark.django_db

# Their callers may add parameters of their own: gateways, and people who follow a link to a page.
FREE = {"Webhooks", "Root", "Description", "Docs", "Reference"}
UUID = "01a1fe01-4d49-7bd4-9e70-2e5fa2680929"
VALUES = {"order_id": "o1", "user_id": "ann"}
FORMAT = "format"  # by which an answer is chosen; descriptions name it where there are several
JSON = "application/json"


@pytest.fixture
def http() -> Client:
    return Client(raise_request_exception=False, headers={"X-Admin-Secret": "dev-admin-secret"})


@pytest.fixture
def there() -> None:
    """An order, an account and a webhook endpoint, which the paths below name."""
    factories.order(order_id=VALUES["order_id"])
    services.open_account(user_id=VALUES["user_id"])
    WebhookEndpoint.objects.create(id=UUID, url="https://shop.example/", created_at=timezone.now())


def views(patterns: Any = None) -> Iterator[type[Any]]:
    for one in patterns or get_resolver().url_patterns:
        if isinstance(one, URLResolver):
            yield from views(one.url_patterns)
        elif hasattr(one.callback, "cls"):
            yield one.callback.cls


def operations() -> list[tuple[str, str, type[Any]]]:
    """Each operation that refuses parameters: its method, its path and its view."""
    endpoints = EndpointEnumerator().get_api_endpoints()
    found = {(path.rstrip("/"), method, callback.cls) for path, _regex, method, callback in endpoints}
    return [(method, path, view) for path, method, view in sorted(found, key=str) if view.__name__ not in FREE]


def at(path: str) -> str:
    names = [part.partition("}")[0] for part in path.split("{")[1:]]
    return path.format(**{name: VALUES.get(name, UUID) for name in names})


def test_every_view_of_the_api_looks_at_its_parameters() -> None:
    assert {view.__name__ for view in views() if not issubclass(view, parameters.StrictView)} == FREE


def test_what_a_view_knows_is_what_its_description_names() -> None:
    described = openapi.document()["paths"]
    assert len(operations()) > 25
    for method, path, view in operations():
        named = described[path][method.lower()].get("parameters", ())
        names = {one["name"]: one["schema"].get("type") == "array" for one in named if one["in"] == "query"}
        request: Any = APIRequestFactory().generic(method, "/")
        assert parameters.known_to(view(), request) == names | {FORMAT: False}, (method, path)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(("method", "path", "view"), operations())
def test_an_unknown_or_repeated_parameter_is_refused_by_every_operation(
    http: Client, method: str, path: str, view: type[Any]
) -> None:
    for query, name in (("curency=EUR", "curency"), ("format=json&format=json", "format"), ("%00=", "\0")):
        answer = http.generic(method, f"{at(path)}?{query}", b"{}", content_type=JSON)
        assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json"), (method, path)
        assert list(answer.json()["errors"]) == [name], (method, path)
    assert (Order.objects.count(), Entry.objects.count(), WebhookEndpoint.objects.get().is_active) == (1, 0, True)


class TestMoney:
    """Never goes to an account that was not meant."""

    @pytest.fixture
    def euros(self, settings: Any) -> None:
        settings.CURRENCIES = ("USD", "EUR")
        for currency in settings.CURRENCIES:
            services.open_account(user_id="ann", currency=currency)

    @pytest.mark.usefixtures("euros")
    @pytest.mark.parametrize(
        ("query", "errors"),
        [
            ("curency=EUR", {"curency": ["There is no such parameter. Did you mean currency?"]}),
            ("currency=EUR&currency=USD", {"currency": ["Give this once."]}),
            ("currency=EUR&currency=EUR", {"currency": ["Give this once."]}),
        ],
    )
    def test_of_a_deposit(self, http: Client, query: str, errors: dict[str, list[str]]) -> None:
        for method, path in (("POST", "deposit"), ("GET", "balance"), ("GET", "entries"), ("GET", "statement")):
            answer = http.generic(method, f"/accounts/ann/{path}?{query}", b'{"amount": 100}', content_type=JSON)
            assert (answer.status_code, answer.json()["errors"]) == (400, errors)
        assert not Entry.objects.exists()
        answer = http.post("/accounts/ann/deposit?currency=EUR", {"amount": 100}, JSON)
        assert (answer.status_code, answer.json()["currency"]) == (200, "EUR")

    @pytest.mark.parametrize("query", ["user_id=ann", "currency=EUR", "user_id=ann&currency=USD"])
    @pytest.mark.parametrize("body", [{"currency": "EUR"}, {"user_id": "bob"}, {"x": 1}, [1], '"x"'])
    def test_of_an_account_that_is_named_in_two_places(self, http: Client, query: str, body: Any) -> None:
        answer = http.post(f"/accounts?{query}", body, JSON)
        assert (answer.status_code, list(answer.json()["errors"])) == (400, ["body"])
        assert not Account.objects.exists()

    def test_of_an_account_that_a_form_names_as_well(self, http: Client) -> None:
        for form in ("application/x-www-form-urlencoded", None):
            content: dict[str, Any] = {"data": "currency=EUR", "content_type": form} if form else {"data": {"a": "b"}}
            assert http.post("/accounts?user_id=ann", **content).status_code == 400
        assert http.post("/accounts?user_id=ann", "EUR", content_type="text/plain").status_code == 415
        assert not Account.objects.exists()

    @pytest.mark.parametrize("content", [{}, {"data": {}, "content_type": JSON}])
    def test_of_an_account_that_nothing_else_names(self, http: Client, content: dict[str, Any]) -> None:
        assert http.post("/accounts?user_id=ann", **content).status_code == 201

    def test_of_a_statement(self, http: Client) -> None:
        services.open_account(user_id="ann")
        answer = http.get("/accounts/ann/statement?from=2026-01-01&from=2026-02-01&to=never&form=2026-01-01")
        assert answer.status_code == 400
        assert {name: len(texts) for name, texts in answer.json()["errors"].items()} == {"from": 1, "to": 1, "form": 1}


class TestAPerson:
    """Sees a page, whatever the method of the endpoint is."""

    PAGE: dict[str, Any] = {"Accept": "text/html", "Origin": "http://testserver"}

    @pytest.mark.usefixtures("there")
    @pytest.mark.parametrize(
        "path", ["/orders", "/orders/o1", "/orders/o1/cancel", "/accounts/ann/deposit", "/admin/products", "/products"]
    )
    def test_may_name_the_format(self, http: Client, path: str) -> None:
        assert http.get(f"{path}?format=api", headers=self.PAGE).status_code == 200

    def test_is_told_on_the_page_what_is_wrong(self, http: Client) -> None:
        answer = http.get("/orders?statsu=paid", headers=self.PAGE)
        assert (answer.status_code, answer["Content-Type"]) == (400, "text/html; charset=utf-8")
        assert "Did you mean status?" in answer.content.decode()


def test_a_gateway_may_add_parameters_of_its_own(http: Client) -> None:
    answer = http.post("/webhooks/payments/fake?attempt=1&attempt=2", b"{}", JSON)
    assert (answer.status_code, answer.json()["code"]) == (401, "signature_missing")


def test_options_and_methods_that_are_not_there_have_no_parameters(http: Client) -> None:
    assert http.options("/orders?x=1").status_code == 200
    assert http.put("/orders?x=1").status_code == 405
    assert http.head("/orders?statsu=paid").status_code == 400
    assert http.head("/orders?status=paid").status_code == 200
