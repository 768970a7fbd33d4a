"""What a page of another site can make a browser send changes nothing, where nobody is asked for a token too."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from orders.models import Order
from orders_project.tests.callers import bearer, new_key
from payments.models import Account
from processing.models import Product

pytestmark = pytest.mark.django_db

FORM = {"user_id": "ann", "amount": "1"}
HTML = {"Accept": "text/html"}
SAME = {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}
FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://testserver:9000"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


def assert_refused(answer: Any) -> None:
    assert (answer.status_code, answer.json()["code"]) == (403, "cross_site")


@pytest.mark.parametrize("foreign", FOREIGN, ids=str)
class TestAnotherSite:
    def test_places_no_order(self, client: Client, foreign: dict[str, str]) -> None:
        assert_refused(client.post("/orders", FORM, headers=HTML | foreign))
        assert_refused(client.post("/orders", FORM, "application/json", headers=foreign))
        assert_refused(client.post("/grpc/orders", FORM, "application/json", headers=foreign))
        assert not Order.objects.exists()

    def test_opens_no_account(self, client: Client, foreign: dict[str, str]) -> None:
        assert_refused(client.post("/accounts?user_id=ann", headers=foreign))
        assert not Account.objects.filter(user_id="ann").exists()

    def test_uses_no_secret_and_no_session(self, client: Client, foreign: dict[str, str]) -> None:
        product = {"name": "Lamp", "price": 5, "stock": 1}
        secret = {"X-Admin-Secret": "dev-admin-secret"}
        client.force_login(User.objects.create_superuser("root"), backend="django.contrib.auth.backends.ModelBackend")
        assert_refused(client.post("/admin/products", product, "application/json", headers=secret | foreign))
        page = client.post("/admin/logout/", headers=foreign)
        assert (page.status_code, "from another site" in page.text) == (403, True)
        assert not Product.objects.exists()
        assert client.get("/admin/").status_code == 200


class TestOurOwnPages:
    def test_send_forms(self, client: Client) -> None:
        assert client.post("/orders", FORM, headers=HTML | SAME).status_code == 201

    def test_may_be_at_the_public_address(self, client: Client, settings: Any) -> None:
        settings.PUBLIC_URL = "https://shop.example/"
        assert Client().post("/orders", FORM, headers=HTML | {"Origin": "https://shop.example"}).status_code == 201


class TestAProgram:
    def test_sends_json_and_no_forms(self, client: Client) -> None:
        assert client.post("/orders", FORM, "application/json").status_code == 201
        for content_type in ("application/x-www-form-urlencoded", "text/plain"):
            assert client.post("/orders", "user_id=ann&amount=1", content_type, headers=HTML).status_code == 415
        assert client.post("/orders", FORM, headers=HTML).status_code == 415
        assert Order.objects.count() == 1

    def test_with_a_token_may_be_on_any_site(self, client: Client, settings: Any, tmp_path: Any) -> None:
        settings.JWT_KEY_FILES, settings.API_AUTH = [new_key(tmp_path / "key.pem")], "required"
        headers = bearer("shop", "orders:write") | FOREIGN[0]
        assert client.post("/orders", FORM, "application/json", headers=headers).status_code == 201


@pytest.mark.parametrize("path", ["/orders", "/", "/admin/", "/schema", "/health", "/oauth/token", "/metrics"])
def test_a_name_that_was_pointed_at_this_machine_reaches_nothing(client: Client, path: str) -> None:
    """DNS rebinding: for the browser the page and the API are one site."""
    rebound = {"Host": "evil.example:8000", "Origin": "http://evil.example:8000", "Sec-Fetch-Site": "same-origin"}
    for answer in (client.get(path, headers=rebound), client.post(path, FORM, "application/json", headers=rebound)):
        assert answer.status_code == 400
    assert not Order.objects.exists()
