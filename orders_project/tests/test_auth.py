"""Authentication and permissions: which tokens are valid, and what they allow."""

import base64
import hashlib
import hmac
import json
import re
import time
from io import StringIO
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from django.core.management import CommandError, call_command
from django.test import Client as Http
from google.protobuf.empty_pb2 import Empty

from orders.models import Order
from orders.protos import order_service_pb2 as pb
from orders.protos.order_service_pb2_grpc import OrderServiceStub
from orders_project.auth import authentication as auth
from orders_project.auth import keys
from orders_project.models import Client
from orders_project.tests.callers import bearer, new_key
from processing.models import Product, StockMovement

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_key(tmp_path_factory.mktemp("keys") / "key.pem")


@pytest.fixture(autouse=True)
def required(settings: Any, key_file: str) -> None:
    settings.API_AUTH = "required"
    settings.JWT_KEY_FILES = [key_file]


@pytest.fixture
def http() -> Http:
    return Http(raise_request_exception=False)


def make_client(name: str = "shop", *scopes: str) -> str:
    """Create a client; return its secret."""
    out = StringIO()
    call_command("client", "create", name, "--scopes", *(scopes or ("orders:read", "orders:write")), stdout=out)
    return out.getvalue().split("client_secret=")[1].strip()


def ask(http: Http, secret: str, *, name: str = "shop", **body: str) -> Any:
    basic = base64.b64encode(f"{name}:{secret}".encode()).decode()
    body = {"grant_type": "client_credentials", **body}
    return http.post("/oauth/token", body, headers={"Authorization": f"Basic {basic}"})


class TestTheTokenEndpoint:
    def test_gives_a_token_that_is_accepted(self, http: Http) -> None:
        answer = ask(http, make_client())
        assert answer.status_code == 200, answer.content
        given = answer.json()
        assert (given["token_type"], given["expires_in"], given["scope"]) == ("Bearer", 900, "orders:read orders:write")
        assert answer["Cache-Control"] == "no-store"
        claims = jwt.decode(given["access_token"], options={"verify_signature": False})
        assert (claims["sub"], claims["aud"]) == ("shop", "orders")
        header = {"Authorization": f"Bearer {given['access_token']}"}
        assert http.get("/orders", headers=header).status_code == 200

    def test_gives_no_more_than_the_client_may_have(self, http: Http) -> None:
        secret = make_client("reader", "orders:read")
        assert ask(http, secret, name="reader").json()["scope"] == "orders:read"
        refused = ask(http, secret, name="reader", scope="orders:write")
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_scope")

    def test_accepts_the_secret_in_the_body_too(self, http: Http) -> None:
        body = {"grant_type": "client_credentials", "client_id": "shop", "client_secret": make_client()}
        assert http.post("/oauth/token/", body).status_code == 200

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"grant_type": "password", "username": "a", "password": "b"},
            {"grant_type": "authorization_code", "code": "x"},
            {"grant_type": "client_credentials", "client_id": "shop\0"},
            {"grant_type": "client_credentials", "client_id": "☃", "client_secret": "☃"},
            {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": "x"},
        ],
    )
    def test_refuses_other_grants(self, http: Http, body: dict[str, str]) -> None:
        make_client()
        answer = http.post("/oauth/token", body)
        assert answer.status_code in (400, 401)
        assert "error" in answer.json()

    def test_keeps_no_secret_that_can_be_read(self) -> None:
        secret = make_client()
        assert secret not in Client.objects.get(client_id="shop").client_secret


class TestKeys:
    def test_are_rotated_without_a_gap(self, http: Http, settings: Any, tmp_path: Path, key_file: str) -> None:
        old = bearer("shop", "orders:read")
        settings.JWT_KEY_FILES = [new_key(tmp_path / "new.pem"), key_file]
        new = bearer("shop", "orders:read")
        published = [key["kid"] for key in http.get("/.well-known/jwks.json").json()["keys"]]
        assert published == [jwt.get_unverified_header(h["Authorization"][7:])["kid"] for h in (new, old)]
        assert [http.get("/orders", headers=header).status_code for header in (old, new)] == [200, 200]
        settings.JWT_KEY_FILES = settings.JWT_KEY_FILES[:1]
        assert [http.get("/orders", headers=header).status_code for header in (old, new)] == [401, 200]

    def test_a_public_key_is_enough_to_verify_tokens(self, http: Http, settings: Any, tmp_path: Path) -> None:
        header = bearer("shop", "orders:read")
        public = tmp_path / "public.pem"
        public.write_bytes(
            keys.current()[0].public.public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        settings.JWT_KEY_FILES = [str(public)]
        assert http.get("/orders", headers=header).status_code == 200
        with pytest.raises(keys.NoKey):
            bearer("shop")

    def test_published_are_public(self, http: Http) -> None:
        (key,) = http.get("/.well-known/jwks.json").json()["keys"]
        assert key.keys() == {"kty", "n", "e", "kid", "use", "alg"}
        assert http.get("/.well-known/oauth-authorization-server").json()["jwks_uri"].endswith("/jwks.json")

    def test_that_are_not_usable_end_the_process(self, settings: Any, tmp_path: Path) -> None:
        weak = generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - refused, that is the point
        (tmp_path / "weak.pem").write_bytes(
            weak.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        (tmp_path / "no.pem").write_text("no key")
        for name, why in (
            ("weak.pem", "1024 bits"),
            ("no.pem", "does not contain an RSA key"),
            ("missing.pem", "No such file"),
        ):
            settings.JWT_KEY_FILES = [str(tmp_path / name)]
            with pytest.raises(SystemExit, match=why):
                auth.prepare()
        settings.JWT_KEY_FILES = []
        with pytest.raises(SystemExit, match="JWT_KEY_FILES is missing"):
            auth.prepare()


def forged(**changes: Any) -> str:
    claims = {
        "sub": "shop", "scope": "orders:read", "iat": int(time.time()), "exp": int(time.time()) + 60,
        "iss": "http://127.0.0.1:8000", "aud": "orders",
    }  # fmt: skip
    return keys.sign({name: value for name, value in (claims | changes).items() if value is not None})


def encoded(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def unsigned() -> str:
    header = encoded(json.dumps({"alg": "none", "typ": "at+jwt", "kid": keys.current()[0].kid}).encode())
    return f"{header}.{forged().split('.')[1]}."


def signed_with_the_public_key() -> str:
    """A known attack: an HMAC with the public key, for a server that trusts the algorithm in the token."""
    public = keys.current()[0].public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    header = encoded(json.dumps({"alg": "HS256", "typ": "at+jwt", "kid": keys.current()[0].kid}).encode())
    unsigned = f"{header}.{forged().split('.')[1]}"
    return f"{unsigned}.{encoded(hmac.new(public, unsigned.encode(), hashlib.sha256).digest())}"


class TestAToken:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: forged(exp=int(time.time()) - 60),
            lambda: forged(aud="others"),
            lambda: forged(iss="https://elsewhere.example"),
            lambda: forged(sub=None),
            lambda: forged(sub=""),
            lambda: forged(scope=None),
            lambda: forged(scope=["orders:read"]),
            lambda: forged(exp=None),
            lambda: forged()[:-4] + "AAAA",
            unsigned,
            signed_with_the_public_key,
            lambda: "x.y.z",
            lambda: "",
            lambda: "☃".encode().decode("latin-1"),
        ],
    )
    def test_that_was_not_signed_here_is_refused(self, http: Http, make: Any) -> None:
        answer = http.get("/orders", headers={"Authorization": f"Bearer {make()}"})
        assert answer.status_code == 401
        assert answer.json()["code"] == "authentication_failed"
        assert answer["WWW-Authenticate"].startswith("Bearer")

    def test_is_required(self, http: Http) -> None:
        for method, path in (
            ("GET", "/orders"), ("POST", "/orders"), ("GET", "/orders/x"), ("GET", "/orders/x/events"),
            ("POST", "/orders/x/cancel"), ("POST", "/accounts"), ("GET", "/accounts/ann/balance"),
            ("GET", "/accounts/ann/entries"), ("POST", "/accounts/ann/deposit"), ("POST", "/admin/products"),
        ):  # fmt: skip
            answer = http.generic(method, path, "{}", content_type="application/json")
            assert (answer.status_code, method, path) == (401, method, path)
            assert answer["Content-Type"] == "application/problem+json"

    def test_without_the_scope_is_not_enough(self, http: Http) -> None:
        body = {"user_id": "ann", "amount": 1}
        header = bearer("shop", "orders:read", "accounts:write", "unheard:of")
        refused = http.post("/orders", body, content_type="application/json", headers=header)
        assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
        assert refused.json()["detail"] == "This needs the scope orders:write."
        assert refused["WWW-Authenticate"].endswith('error="insufficient_scope", scope="orders:write"')
        assert Order.objects.count() == 0

    def test_in_another_scheme_is_refused(self, http: Http) -> None:
        assert http.get("/orders", headers={"Authorization": "Basic c2hvcDp4"}).status_code == 401


class TestOwnership:
    """Every endpoint of an object, for its owner, for another client and without a client."""

    BOTH = ("orders:read", "orders:write", "accounts:read", "accounts:write")
    ENDPOINTS = (
        ("GET", "/orders/{order}", 200),
        ("GET", "/orders/{order}/events", 200),
        ("POST", "/orders/{order}/cancel", 202),
        ("GET", "/accounts/{user}/balance", 200),
        ("GET", "/accounts/{user}/entries", 200),
        ("POST", "/accounts/{user}/deposit", 201),
    )

    @pytest.fixture
    def things(self, http: Http) -> dict[str, str]:
        owner = bearer("owner", *self.BOTH)
        placed = http.post("/orders", {"user_id": "ann", "amount": 5}, "application/json", headers=owner)
        assert placed.status_code == 201, placed.content
        assert http.post("/accounts?user_id=ann", headers=owner).status_code == 201
        return {"order": placed.json()["order_id"], "user": "ann"}

    @pytest.mark.parametrize(("method", "path", "status"), ENDPOINTS)
    def test_of_an_endpoint(self, http: Http, things: dict[str, str], method: str, path: str, status: int) -> None:
        body = '{"amount": 1}' if "deposit" in path else "{}"

        def knock(headers: dict[str, str]) -> Any:
            return http.generic(method, path.format(**things), body, "application/json", headers=headers)

        assert knock({}).status_code == 401
        another, nothing = knock(bearer("another", *self.BOTH)), knock(bearer("another", *self.BOTH))
        assert another.status_code == 404
        missing = http.generic(
            method, path.format(order="nope", user="nope"), body, "application/json",
            headers=bearer("another", *self.BOTH),
        )  # fmt: skip
        problems = [{**answer.json(), "correlation_id": ""} for answer in (another, missing)]
        assert problems[0]["code"] == problems[1]["code"], "another's must look like nobody's"
        assert nothing.status_code == 404
        assert knock(bearer("owner", *self.BOTH)).status_code in (status, 200)

    def test_of_the_list(self, http: Http, things: dict[str, str]) -> None:
        def listed(principal: str) -> list[str]:
            answer = http.get("/orders", headers=bearer(principal, *self.BOTH)).json()
            return [order["order_id"] for order in answer["results"]]

        assert listed("owner") == [things["order"]]
        assert listed("another") == []

    def test_of_an_id_that_another_client_has_taken(self, http: Http, things: dict[str, str]) -> None:
        body = {"order_id": things["order"], "user_id": "ann", "amount": 7}
        answer = http.post("/orders", body, "application/json", headers=bearer("another", *self.BOTH))
        assert answer.status_code == 201
        assert (answer.json()["order_id"], answer.json()["total_amount"]) == (things["order"], 7.0)
        owners = http.get(f"/orders/{things['order']}", headers=bearer("owner", *self.BOTH)).json()
        assert owners["total_amount"] == 5.0


@pytest.mark.django_db(transaction=True)
class TestGrpc:
    def test_admits_the_same_principals_as_http(self, grpc_channel: grpc.Channel) -> None:
        orders = OrderServiceStub(grpc_channel)

        def metadata(principal: str, *scopes: str) -> list[tuple[str, str]]:
            return [("authorization", bearer(principal, *scopes)["Authorization"])]

        def code(call: Any, *arguments: Any, **options: Any) -> grpc.StatusCode:
            with pytest.raises(grpc.RpcError) as refused:
                call(*arguments, **options)
            found: grpc.StatusCode = refused.value.code()
            return found

        request = pb.CreateOrderRequest(user_id="ann", amount=5)
        assert code(orders.CreateOrder, request) is grpc.StatusCode.UNAUTHENTICATED
        wrong = [("authorization", "Bearer x")]
        assert code(orders.CreateOrder, request, metadata=wrong) is grpc.StatusCode.UNAUTHENTICATED
        reader = metadata("owner", "orders:read")
        assert code(orders.CreateOrder, request, metadata=reader) is grpc.StatusCode.PERMISSION_DENIED
        made = orders.CreateOrder(request, metadata=metadata("owner", "orders:write"))
        asked = pb.GetOrderRequest(order_id=made.order_id)
        assert orders.GetOrder(asked, metadata=reader) == made
        another = metadata("another", "orders:read")
        assert code(orders.GetOrder, asked, metadata=another) is grpc.StatusCode.NOT_FOUND
        assert code(orders.GetOrder, asked) is grpc.StatusCode.UNAUTHENTICATED
        assert list(orders.ListOrders(Empty(), metadata=another).orders) == []

    def test_over_http_too(self, grpc_channel: Any, settings: Any, http: Http) -> None:
        settings.ORDER_SERVICE_GRPC = grpc_channel.target
        answer = http.get("/grpc/orders")
        assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
        assert answer["WWW-Authenticate"].startswith("Bearer")
        assert http.get("/grpc/orders", headers=bearer("owner", "orders:read")).json() == []


class TestTheCommand:
    def test_lists_changes_secrets_and_removes(self, http: Http) -> None:
        old = make_client("shop", "orders:read")
        out = StringIO()
        call_command("client", "list", stdout=out)
        assert out.getvalue() == "shop: orders:read\n"
        out = StringIO()
        call_command("client", "secret", "shop", stdout=out)
        new = out.getvalue().split("client_secret=")[1].strip()
        assert [ask(http, secret).status_code for secret in (old, new)] == [401, 200]
        call_command("client", "remove", "shop", stdout=StringIO())
        assert ask(http, new).status_code == 401

    def test_refuses_invalid_arguments(self, tmp_path: Path) -> None:
        make_client()
        for arguments, why in (
            (["create", "shop", "--scopes", "orders:read"], "already"),
            (["create", "a b", "--scopes", "orders:read"], "at most 100"),
            (["create", "new", "--scopes", "everything"], "no scope everything"),
            (["secret", "nobody"], "no client nobody"),
        ):
            with pytest.raises(CommandError, match=why):
                call_command("client", *arguments)
        call_command("client", "key", str(tmp_path / "key.pem"), stdout=StringIO())
        assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
        with pytest.raises(CommandError, match="exists"):
            call_command("client", "key", str(tmp_path / "key.pem"))


class TestStaff:
    """Staff use the pages of the API with their session, as far as their permissions allow."""

    FORM = {"name": "Lamp", "price": "5", "stock": "1"}
    PAGE = {"Accept": "text/html", "Origin": "http://testserver"}

    def enter(self, *permissions: str, **fields: Any) -> Http:
        from django.contrib.auth.models import Permission, User

        person, _ = User.objects.get_or_create(username="ann", defaults={"is_staff": True} | fields)
        for permission in permissions:
            app, _, codename = permission.partition(".")
            person.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
        browser = Http(enforce_csrf_checks=True, raise_request_exception=False)
        browser.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
        return browser

    def send(self, browser: Http, path: str, form: dict[str, str]) -> Any:
        return browser.post(path, form | {"csrfmiddlewaretoken": self.token_of(browser, path)}, headers=self.PAGE)

    def token_of(self, browser: Http, path: str) -> str:
        page = browser.get(path, headers=self.PAGE).content.decode()
        (token,) = set(re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page)) or {""}
        return token

    def test_may_do_what_their_permissions_allow(self) -> None:
        browser = self.enter("orders_project.edit_product")
        answer = self.send(browser, "/admin/products", self.FORM)
        assert answer.status_code == 201, answer.content
        assert StockMovement.objects.get().actor == "staff:ann"
        assert browser.get("/orders", headers=self.PAGE).status_code == 403

    def test_see_all_orders_with_the_permission(self, http: Http) -> None:
        http.post("/orders", {"user_id": "eve", "amount": 5}, "application/json", headers=bearer("eve", "orders:write"))
        browser = self.enter("orders.view_order")
        assert len(browser.get("/orders").json()["results"]) == 1
        assert self.send(browser, "/orders", {"user_id": "eve", "amount": "5"}).status_code == 403
        assert Order.objects.count() == 1

    @pytest.mark.parametrize(
        ("path", "permission", "scope"),
        [("capture", "capture_order", "payments:write"), ("refunds", "refund_order", "refunds:write")],
    )
    def test_need_the_permission_of_the_same_action_in_the_back_office(
        self, http: Http, path: str, permission: str, scope: str
    ) -> None:
        """Who may cancel orders may not take or return money for it."""
        http.post("/orders", {"user_id": "eve", "amount": 5}, "application/json", headers=bearer("eve", "orders:write"))
        where = f"/orders/{Order.objects.get().order_id}/{path}"
        others = {"cancel_order", "capture_order", "refund_order"} - {permission}
        browser = self.enter("orders.view_order", *(f"orders_project.{name}" for name in others))
        headers = {"Origin": "http://testserver", "X-CSRFToken": self.token_of(browser, "/orders")}
        body = {"amount": 1, "reason": "It was broken."}
        answer = browser.post(where, body, "application/json", headers=headers)
        assert (answer.status_code, answer.json()["detail"]) == (403, f"This needs the scope {scope}.")
        self.enter(f"orders_project.{permission}")
        answer = browser.post(where, body, "application/json", headers=headers)
        assert answer.status_code == 409, answer.content  # it is not paid yet

    def test_need_the_token_of_the_form(self) -> None:
        browser = self.enter(is_superuser=True)
        for options in ({"data": self.FORM}, {"data": self.FORM, "content_type": "application/json"}):
            answer = browser.post("/admin/products", headers=self.PAGE, **options)
            assert answer.status_code == 403
            assert b"CSRF" in answer.content
        assert not Product.objects.exists()

    @pytest.mark.parametrize("fields", [{"is_staff": False, "is_superuser": True}, {"is_active": False}])
    def test_must_be_active_staff(self, fields: dict[str, bool]) -> None:
        assert self.enter("orders.view_order", **fields).get("/orders").status_code == 401

    def test_need_the_back_office(self, settings: Any) -> None:
        settings.BACK_OFFICE = False
        assert self.enter(is_superuser=True).get("/orders").status_code == 401

    def test_lose_nothing_where_the_api_is_open(self, settings: Any) -> None:
        settings.API_AUTH = "open"
        assert self.send(self.enter(), "/orders", {"user_id": "eve", "amount": "5"}).status_code == 201
