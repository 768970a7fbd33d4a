"""Texts that are known to break programs, in every field and header; and fields that clients may not set."""

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
REFUSING = {"Authorization", "Accept", "Content-Length", "Host"}
POSTED = {
    "/orders": ("Idempotency-Key", "Content-Type", "X-Forwarded-For"),
    "/webhooks/payments/fake": ("webhook-id", "webhook-timestamp", "webhook-signature", "Content-Type"),
}
# Parameters that are looked at together: either all of them are refused for a text, or none.
PARAMETERS = {
    "/orders": (
        ("customer_id", "user_id"),
        ("user_email",),
        ("status", "created_from", "created_to"),
        ("cursor",),
        ("limit",),
    ),
    "/products": (("is_active",), ("sku",), ("cursor",), ("limit",)),
}
FIELDS = [
    "order_id", "customer_id", "user_id", "user_email", "description", "payment_method", "currency", "amount", "items",
    "unknown-field",
]  # fmt: skip


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


@pytest.mark.slow
class TestNaughtyTexts:
    @pytest.mark.parametrize("field", FIELDS)
    def test_in_an_order(self, http: Client, field: str) -> None:
        for text in NAUGHTY:
            body = {"user_id": "ann", "amount": 1, "customer_id": "c", field: text}
            answer = http.post("/orders", body, content_type="application/json")
            assert_handled(answer, (field, text))
            if answer.status_code == 201 and field not in ("order_id", "amount"):
                kept = answer.json().get(field)
                assert kept in (text, text.strip() or None, "gateway", "account", "USD"), (field, text)

    @pytest.mark.parametrize("field", ["sku", "product_id", "quantity", "price", "unknown-field"])
    def test_in_a_line(self, http: Client, field: str) -> None:
        for text in NAUGHTY:
            body = {"customer_id": "c", "items": [{"sku": "free", "quantity": 1, "price": 1, field: text}]}
            assert_handled(http.post("/orders", body, content_type="application/json"), (field, text))

    @pytest.mark.parametrize("field", ["name", "sku", "price", "stock", "is_active"])
    def test_in_a_product(self, http: Client, field: str) -> None:
        for text in NAUGHTY:
            body = {"name": "Lamp", "price": 1, "stock": 1, "sku": f"s-{uuid4()}", field: text}
            headers = {"X-Admin-Secret": "dev-admin-secret"}
            assert_handled(http.post("/admin/products", body, "application/json", headers=headers), (field, text))

    def test_in_paths_and_queries(self, http: Client) -> None:
        paths = ("/{}", "/orders/{}", "/orders/{}/events", "/products/{}", "/accounts/{}/balance", "/problems/{}")
        for text in NAUGHTY:
            quoted = quote(text[:300], safe="")
            for path in paths:
                answer = http.get(path.format(quoted))
                assert answer.status_code < 500, (path, text)
            assert_handled(http.post(f"/accounts?user_id={quoted}"), text)
            for path, groups in PARAMETERS.items():
                for names in groups:
                    query = "&".join(f"{name}={quoted}" for name in names)
                    assert_handled(http.get(f"{path}?{query}"), (names, text))
        for raw in ("%00", "%ff%fe", "%", "%u0041", "%C0%AF", "a%0d%0ab"):
            assert http.get(f"/orders/{raw}").status_code < 500
            assert_handled(http.get(f"/orders?user_id={raw}"), raw)

    @pytest.mark.parametrize("header", [name for name in HEADERS if name in REFUSING])
    def test_in_a_header_that_may_be_refused(self, http: Client, header: str) -> None:
        for text in NAUGHTY:
            assert http.get("/orders", **environ(header, text)).status_code < 500, text

    def test_in_all_other_headers_at_once(self, http: Client) -> None:
        """Each text in each of them, and in a request all differ: it is answered, so no header hides another."""
        others = [name for name in HEADERS if name not in REFUSING]
        for shift in range(len(NAUGHTY)):
            extra: dict[str, Any] = {}
            for number, header in enumerate(others):
                extra |= environ(header, NAUGHTY[(shift + number) % len(NAUGHTY)])
            answer = http.get("/orders", **extra)
            assert answer.status_code == 200, (shift, answer.content)

    @pytest.mark.parametrize(("path", "header"), [(path, header) for path, names in POSTED.items() for header in names])
    def test_in_a_header_of_what_is_posted(self, http: Client, path: str, header: str) -> None:
        for text in NAUGHTY:
            extra = environ(header, text)
            answer = http.post(path, b"{}", **({"content_type": extra.pop("CONTENT_TYPE", "application/json")} | extra))
            assert answer.status_code < 500, (text, answer.content)

    def test_over_grpc(self, grpc_channel: Any) -> None:
        create = OrderServiceStub(grpc_channel).CreateOrder
        for text in NAUGHTY:
            for field in ("order_id", "customer_id", "user_email", "description", "payment_method", "currency"):
                request = pb.CreateOrderRequest(user_id="ann", amount=-1)  # never created: only validated
                setattr(request, field, text)
                with pytest.raises(grpc.RpcError) as refused:
                    create(request)
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, (field, text)


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
        http.post(f"/accounts?user_id=ann&{field}={body[field]}", body, content_type="application/json")
        http.post("/accounts/ann/deposit", {"amount": 5, **body}, content_type="application/json")
        account = Account.objects.filter(user_id="ann").first()
        if account is not None:
            assert account.balance in (0, 500)
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
