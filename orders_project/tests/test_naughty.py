"""Texts that are known to break programs, in every field and header; and fields that clients may not set."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import grpc
import pytest
from django.test import Client

from orders.models import Order
from orders.protos import order_service_pb2 as pb
from orders.protos.order_service_pb2_grpc import OrderServiceStub
from orders_project.tests.callers import bearer, new_key
from orders_project.tests.efforts import some
from payments.models import Account
from processing.models import Product

pytestmark = pytest.mark.django_db

NAUGHTY = [
    "", " ", "\t", "\n", "\r\nX-Injected: yes", "a\nb", "\0", "a\0b", "\x7f", "\x1b[31mred", "\x85", "\u2028",
    "null", "undefined", "NaN", "Infinity", "-0", "1e999", "0x10", "1_000", "٣", "½", "１２",
    "999999999999999999999", "true", "[]", "{}", "__proto__", "constructor", "None", "${7*7}", "{{7*7}}",
    "{% now 'Y' %}", "%s%n%x", "#{1}", "' OR 1=1 --", "'; DROP TABLE orders_order; --", '" OR ""="',
    "1; SELECT pg_sleep(5)", "\\'; --", "*)(uid=*", "$(id)", "`id`", "| cat /etc/passwd", "../../etc/passwd",
    "..", ".", "..%2f..%2f", "C:\\windows", "file:///etc/passwd", "//evil.example", "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>", "]]>", "<!--", "&lt;", "javascript:alert(1)", "é", "e\u0301", "ﬀ", "İ", "ß",
    "Ω≈ç√", "田中さん", "אבג", "مرحبا", "\u202eabc", "\u200b", "\ufeff", "\ufffe", "\uffff", "\ue000", "👩‍👩‍👧‍👦",
    "🏳️‍🌈", "𝕳𝖎", "Z̷̢̛a̷l̷g̷o̷", "\U0010ffff", "á" * 300, "x" * 70, "x" * 600, "x" * 10_000, "👍" * 200, "a@b",
    "a@b.c\n", '"a b"@example.com', "a@[127.0.0.1]", "a@xn--d1acufc.example", "@", "a@b@c", "ann@example.com",
    "W/\"1\"", "*", '"', "\"1\", \"2\"", "bearer", "Bearer ", "Basic Og==", "a:b", "00-0-0-0", "q=0.1",
    "*/*;q=", ",,,", ";;;", "=",
]  # fmt: skip
HEADERS = [
    "Idempotency-Key", "X-Correlation-ID", "traceparent", "tracestate", "If-Match", "If-None-Match",
    "If-Modified-Since", "Authorization", "X-Admin-Secret", "X-Forwarded-For", "X-Forwarded-Proto", "Accept",
    "Accept-Language", "Content-Type", "Cookie", "Origin", "Referer", "User-Agent", "webhook-id",
    "webhook-timestamp", "webhook-signature", "Stripe-Signature", "X-HTTP-Method-Override", "Content-Length",
    "Host",
]  # fmt: skip
# Those that can have a request refused before the others are looked at, and so are tried alone.
REFUSING = ["Authorization", "Accept", "Content-Length", "Host"]
POSTED = [
    *itertools.product(["/orders"], ["Idempotency-Key", "Content-Type", "X-Forwarded-For"]),
    *itertools.product(
        ["/webhooks/payments/fake"], ["webhook-id", "webhook-timestamp", "webhook-signature", "Content-Type"]
    ),
]
# Parameters that are looked at together, where either all of them are refused for a text or none, are in one place.
PLACES = [
    "GET /orders?customer_id={0}&user_id={0}", "GET /orders?user_email={0}",
    "GET /orders?status={0}&created_from={0}&created_to={0}", "GET /orders?cursor={0}", "GET /orders?limit={0}",
    "GET /products?is_active={0}", "GET /products?sku={0}", "GET /products?cursor={0}", "GET /products?limit={0}",
    "POST /accounts?user_id={0}",
]  # fmt: skip
PATHS = ["/{}", "/orders/{}", "/orders/{}/events", "/products/{}", "/accounts/{}/balance", "/problems/{}"]
ORDER = [
    "order_id", "customer_id", "user_id", "user_email", "description", "payment_method", "currency", "amount", "items",
    "unknown-field",
]  # fmt: skip
LINE = ["sku", "product_id", "quantity", "price", "unknown-field"]
PRODUCT = ["name", "sku", "price", "stock", "is_active"]
OF_GRPC = ["order_id", "customer_id", "user_email", "description", "payment_method", "currency"]


@pytest.fixture
def http(settings: Any) -> Client:
    settings.RATE_LIMIT_ORDERS_PER_MINUTE = 0
    return Client(raise_request_exception=False)


def environ(header: str, text: str) -> dict[str, Any]:
    """A header as servers pass it on."""
    name = header.upper().replace("-", "_")
    value = text[:5000].encode(errors="surrogatepass").decode("latin-1")
    return {name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}": value}


def assert_handled(answer: Any, what: object) -> None:
    """The answer is a success or a well-formed problem, never a server error."""
    assert answer.status_code < 500, (what, answer.content)
    if answer.status_code >= 400:
        assert answer["Content-Type"] == "application/problem+json", (what, answer.content)
        assert answer.json()["code"], what
    assert "\n" not in "".join(f"{name}{value}" for name, value in answer.headers.items())


def all_different(fields: Sequence[str]) -> Iterator[dict[str, str]]:
    """Naughty texts for these fields, different ones in each, until each text was in every field."""
    for shift in range(len(NAUGHTY)):
        yield {field: NAUGHTY[(shift + number) % len(NAUGHTY)] for number, field in enumerate(fields)}


def order(http: Client, **fields: Any) -> Any:
    body = {"user_id": "ann", "amount": 1, "customer_id": "c", **fields}
    return http.post("/orders", body, content_type="application/json")


def order_of(http: Client, **line: Any) -> Any:
    body = {"customer_id": "c", "items": [{"sku": "free", "quantity": 1, "price": 1, **line}]}
    return http.post("/orders", body, content_type="application/json")


def product(http: Client, **fields: Any) -> Any:
    body = {"name": "Lamp", "price": 1, "stock": 1, "sku": f"s-{uuid4()}", **fields}
    return http.post("/admin/products", body, "application/json", headers={"X-Admin-Secret": "dev-admin-secret"})


@pytest.mark.slow
class TestNaughtyTexts:
    """Each text in each field, with all others; and each text as all that is wrong, in some of the fields."""

    @pytest.mark.parametrize(("send", "fields"), [(order, ORDER), (order_of, LINE), (product, PRODUCT)])
    def test_in_all_fields_at_once(self, http: Client, send: Callable[..., Any], fields: list[str]) -> None:
        for texts in all_different(fields):
            assert_handled(send(http, **texts), texts)

    @pytest.mark.parametrize("field", ORDER)
    def test_in_an_order(self, http: Client, field: str) -> None:
        for text in some(NAUGHTY, ORDER.index(field)):
            answer = order(http, **{field: text})
            assert_handled(answer, (field, text))
            if answer.status_code == 201 and field not in ("order_id", "amount"):
                kept = answer.json().get(field)
                assert kept in (text, text.strip() or None, "gateway", "account", "USD"), (field, text)

    @pytest.mark.parametrize("field", LINE)
    def test_in_a_line(self, http: Client, field: str) -> None:
        for text in some(NAUGHTY, LINE.index(field)):
            assert_handled(order_of(http, **{field: text}), (field, text))

    @pytest.mark.parametrize("field", PRODUCT)
    def test_in_a_product(self, http: Client, field: str) -> None:
        for text in some(NAUGHTY, PRODUCT.index(field)):
            assert_handled(product(http, **{field: text}), (field, text))

    @pytest.mark.parametrize("path", PATHS)
    def test_in_a_path(self, http: Client, path: str) -> None:
        for text in some(NAUGHTY, PATHS.index(path)):
            assert http.get(path.format(quote(text[:300], safe=""))).status_code < 500, text

    @pytest.mark.parametrize("place", PLACES)
    def test_in_a_query(self, http: Client, place: str) -> None:
        for text in some(NAUGHTY, PLACES.index(place)):
            method, url = place.format(quote(text[:300], safe="")).split(" ")
            assert_handled(http.generic(method, url), text)

    @pytest.mark.parametrize("raw", ["%00", "%ff%fe", "%", "%u0041", "%C0%AF", "a%0d%0ab"])
    def test_that_are_not_quoted(self, http: Client, raw: str) -> None:
        assert http.get(f"/orders/{raw}").status_code < 500
        assert_handled(http.get(f"/orders?user_id={raw}"), raw)

    @pytest.mark.parametrize("header", REFUSING)
    def test_in_a_header_that_may_be_refused(self, http: Client, header: str) -> None:
        for text in some(NAUGHTY, REFUSING.index(header)):
            assert http.get("/orders", **environ(header, text)).status_code < 500, text

    def test_in_all_other_headers_at_once(self, http: Client) -> None:
        """It is answered, so no header hides another."""
        for texts in all_different([name for name in HEADERS if name not in REFUSING]):
            extra: dict[str, Any] = {}
            for header, text in texts.items():
                extra |= environ(header, text)
            answer = http.get("/orders", **extra)
            assert answer.status_code == 200, (texts, answer.content)

    @pytest.mark.parametrize(("path", "header"), POSTED)
    def test_in_a_header_of_what_is_posted(self, http: Client, path: str, header: str) -> None:
        for text in some(NAUGHTY, POSTED.index((path, header))):
            extra = environ(header, text)
            answer = http.post(path, b"{}", **({"content_type": extra.pop("CONTENT_TYPE", "application/json")} | extra))
            assert answer.status_code < 500, (text, answer.content)

    def test_over_grpc(self, grpc_channel: Any) -> None:
        create = OrderServiceStub(grpc_channel).CreateOrder
        for texts in all_different(OF_GRPC):
            request = pb.CreateOrderRequest(user_id="ann", amount=-1)  # never created: only validated
            for field, text in texts.items():
                setattr(request, field, text)
            with pytest.raises(grpc.RpcError) as refused:
                create(request)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, texts


class TestClientsCannotSet:
    READ_ONLY = {
        "status": "done", "total_amount": 0, "version": 99, "payment_id": "p", "fail_reason": "x", "principal": "boss",
        "created_at": "2001-01-01T00:00:00Z", "updated_at": "2001-01-01T00:00:00Z", "hold_id": str(uuid4()),
        "fingerprint": "f",
    }  # fmt: skip

    @pytest.mark.parametrize("field", READ_ONLY)
    def test_of_an_order(self, http: Client, field: str) -> None:
        body = {"user_id": "ann", "amount": 5, field: self.READ_ONLY[field]}
        answer = http.post("/orders", body, content_type="application/json")
        assert (answer.status_code, field in answer.json()["errors"]) == (400, True)
        assert Order.objects.count() == 0

    @pytest.mark.parametrize("field", ["balance", "principal", "currency", "kind", "created_at"])
    def test_of_an_account(self, http: Client, field: str) -> None:
        value = {"balance": 10**6, "currency": "EUR", "kind": "system", "created_at": "2001-01-01T00:00:00Z"}
        body = {field: value.get(field, "boss")}
        for query, more in ((f"?user_id=ann&{field}={body[field]}", {}), ("", {"user_id": "ann", **body})):
            assert http.post(f"/accounts{query}", more, content_type="application/json").status_code == 400
        assert http.post("/accounts?user_id=ann", content_type="application/json").status_code == 201
        deposit = http.post("/accounts/ann/deposit", {"amount": 5, **body}, content_type="application/json")
        account = Account.objects.get(user_id="ann")
        assert (deposit.status_code, account.balance) == (400, 0)
        assert (account.principal, account.currency, account.kind) == ("", "USD", "customer")
        assert account.created_at.year > 2001

    @pytest.mark.parametrize("field", ["product_id", "held", "sold", "received", "available", "currency", "created_at"])
    def test_of_a_product(self, http: Client, field: str) -> None:
        value = {"product_id": str(uuid4()), "currency": "EUR", "created_at": "2001-01-01T00:00:00Z"}.get(field, 7)
        headers = {"X-Admin-Secret": "dev-admin-secret"}
        body = {"name": "Lamp", "price": 1, "stock": 3, "sku": "LAMP"}
        http.post("/admin/products", body | {field: value}, "application/json", headers=headers)
        if not Product.objects.exists():
            http.post("/admin/products", body, "application/json", headers=headers)
        product = Product.objects.get()
        http.patch(f"/admin/products/{product.pk}", {field: value}, "application/json", headers=headers)
        http.patch(f"/admin/products/{product.pk}", {field: value, "name": "Lamp"}, "application/json", headers=headers)
        product.refresh_from_db()
        assert (product.available, product.held, product.sold, product.received) == (3, 0, 0, 3)
        assert product.currency == "USD"
        assert str(product.pk) != value
        assert product.created_at.year > 2001

    def test_the_owner(self, http: Client, settings: Any, tmp_path: Any) -> None:
        settings.JWT_KEY_FILES = [new_key(tmp_path / "key.pem")]
        header = bearer("shop", "orders:write")
        for body in ({"principal": "boss"}, {"client_id": "boss"}, {"actor": "boss"}):
            answer = http.post("/orders", {"user_id": "ann", "amount": 5, **body}, "application/json", headers=header)
            assert answer.status_code == 400
        http.post("/orders", {"user_id": "ann", "amount": 5}, "application/json", headers=header)
        assert Order.objects.get().principal == "shop"
