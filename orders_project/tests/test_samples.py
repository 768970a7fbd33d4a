"""The samples of the documentation, the collection and the generated client do what they say, over HTTP."""

import importlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import requests
from django.core.management import call_command
from django.utils import timezone

from common import signing
from common.principal import PRODUCTS_WRITE
from common.principal import SCOPES as ALL_SCOPES
from orders.models import Order, Status, WebhookDelivery
from orders.tests.test_webhooks import Receiver, receiver
from orders_project.contracts import DOCS, collection, openapi

from .callers import bearer, new_key
from .carrier import Carrier

__all__ = ["receiver"]

SAMPLES = DOCS / "samples"
RUN_BY = {".sh": ["sh"], ".py": [sys.executable], ".mjs": ["node"]}
ENOUGH = 300.0  # seconds, for a busy machine
SCOPES = tuple(scope for scope in ALL_SCOPES if scope != PRODUCTS_WRITE)
SAID = re.compile(r"placed (?P<order_id>\S+)\nreserved\n(?P<more>.*)ended canceled\n", re.DOTALL)
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node.js here")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_key(tmp_path_factory.mktemp("keys") / "key.pem")


@pytest.fixture
def shop(
    live_server: Any, settings: Any, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> dict[str, str]:
    """The system with the demo data, which asks for tokens, and a client of it: the environment of a sample."""
    settings.API_AUTH = "required"
    settings.PUBLIC_URL = live_server.url
    settings.JWT_KEY_FILES = [key]
    call_command("load_demo", password_file=tmp_path / "password")
    call_command("client", "create", "shop", "--scopes", *SCOPES)
    (secret,) = re.findall("client_secret=(.*)", capsys.readouterr().out)
    return {"ORDERS_URL": live_server.url, "CLIENT_ID": "shop", "CLIENT_SECRET": secret}


def follow(name: str, **env: str) -> str:
    """Run a sample, and return what it prints; messages are delivered once it has canceled its order."""
    path = SAMPLES / name
    running = subprocess.Popen(
        [*RUN_BY[path.suffix], str(path)],
        env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        ends = time.monotonic() + ENOUGH
        while running.poll() is None and not Order.objects.filter(status=Status.VOIDING).exists():
            assert time.monotonic() < ends
            time.sleep(0.05)
        Carrier().run()
        said, _ = running.communicate(timeout=ENOUGH)
    finally:
        running.kill()
    assert running.returncode == 0, said
    return said


def placed_and_canceled(said: str) -> str:
    """Check that a sample tells what has become of its order; return what else it has printed."""
    told = SAID.fullmatch(said)
    assert told, said
    order = Order.objects.get()
    assert (order.shown_id, order.principal, order.status) == (told["order_id"], "shop", Status.CANCELED)
    return told["more"]


@pytest.mark.processes
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("place_order.sh", marks=needs_curl),
        "place_order.py",
        pytest.param("place_order.mjs", marks=needs_node),
    ],
)
def test_a_sample_places_and_cancels_an_order(shop: dict[str, str], name: str) -> None:
    assert placed_and_canceled(follow(name, **shop)) == ""


@pytest.mark.processes
@pytest.mark.django_db(transaction=True)
def test_a_sample_registers_and_tries_an_endpoint(shop: dict[str, str], receiver: Receiver) -> None:
    env = os.environ | shop | {"HOOK_URL": receiver.url}
    command = [sys.executable, str(SAMPLES / "webhook_endpoint.py")]
    running = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        ends = time.monotonic() + ENOUGH
        while running.poll() is None and not WebhookDelivery.objects.exists():
            assert time.monotonic() < ends
            time.sleep(0.05)
        Carrier().run()
        said, _ = running.communicate(timeout=ENOUGH)
    finally:
        running.kill()
    assert said.splitlines() == ["registered", "ping delivered", "deleted"]
    assert [json.loads(body)["type"] for _, body in receiver.requests] == ["ping"]


def test_every_sample_is_shown_in_the_documentation() -> None:
    shown = (DOCS / "api.md").read_text()
    for path in SAMPLES.iterdir():
        assert f"(samples/{path.name})" in shown


class TestVerifyingWebhooks:
    """Each sample takes what our own code signs, and nothing else."""

    SECRET = "whsec_" + "QUJD" * 10
    OTHER = "whsec_" + "REVG" * 10
    BODY = '{"type": "order.paid", "data": {"description": "Лампа"}}'.encode()

    def signed(self, *secrets: str, age: float = 0) -> dict[str, str]:
        at = timezone.now() - timedelta(seconds=age)
        return signing.sign(secrets=secrets or [self.SECRET], message_id="m-1", timestamp=at, body=self.BODY)

    @property
    def cases(self) -> list[tuple[Mapping[str, str], bytes, bool]]:
        fine = self.signed()
        return [
            (fine, self.BODY, True),
            (self.signed(self.OTHER, self.SECRET), self.BODY, True),  # during a rotation
            (fine, self.BODY.replace(b"paid", b"done"), False),
            (self.signed(self.OTHER), self.BODY, False),
            (self.signed(age=600), self.BODY, False),
            (self.signed(age=-600), self.BODY, False),
            (fine | {"webhook-id": "m-2"}, self.BODY, False),
            (fine | {"webhook-timestamp": "soon"}, self.BODY, False),
            (fine | {"webhook-signature": fine["webhook-signature"].replace("v1,", "v2,")}, self.BODY, False),
            (fine | {"webhook-signature": "v1,é"}, self.BODY, False),
            ({}, self.BODY, False),
        ]

    def test_in_python(self) -> None:
        is_genuine = runpy.run_path(str(SAMPLES / "verify_webhook.py"))["is_genuine"]
        for headers, body, genuine in self.cases:
            assert is_genuine(self.SECRET, headers, body) is genuine, headers

    @needs_node
    @pytest.mark.processes
    def test_in_javascript(self) -> None:
        script = (
            f"import {{ isGenuine }} from {json.dumps((SAMPLES / 'verify_webhook.mjs').as_uri())};"
            "const [secret, cases] = JSON.parse(process.argv[1]);"
            "console.log(JSON.stringify(cases.map(([headers, body]) => isGenuine(secret, headers, Buffer.from(body)))))"
        )
        cases = self.cases
        given = json.dumps([self.SECRET, [(headers, body.decode()) for headers, body, _ in cases]])
        ran = subprocess.run(["node", "--input-type=module", "-e", script, given], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout) == [genuine for _, _, genuine in cases]


# The collection -----------------------------------------------------------------------------------------------------


class Sender:
    """Sends the requests of a collection one after the other, as an API client does."""

    def __init__(self, made: dict[str, Any], **variables: str) -> None:
        self.variables = {each["key"]: each["value"] for each in made["variable"]} | variables

    def send(self, item: dict[str, Any]) -> requests.Response:
        request = item["request"]
        headers = {each["key"]: self._filled(each["value"]) for each in request["header"] if not each.get("disabled")}
        if "auth" not in request:
            headers["Authorization"] = self._filled("Bearer {{token}}")
        body = request.get("body", {})
        form = {each["key"]: self._filled(each["value"]) for each in body.get("urlencoded", ())}
        answer = requests.request(
            request["method"], self._filled(request["url"]["raw"]),
            headers=headers, data=self._filled(body["raw"]) if "raw" in body else form or None, timeout=60,
        )  # fmt: skip
        for event in item.get("event", ()):
            for line in event["script"]["exec"]:
                set_ = re.fullmatch(r'pm\.collectionVariables\.set\("(\w+)", pm\.response\.json\(\)\.(\w+)\);', line)
                assert set_, line
                if answer.ok:
                    self.variables[set_[1]] = answer.json()[set_[2]]
        return answer

    def _filled(self, text: str) -> str:
        return re.sub(r"\{\{(\w+)\}\}", lambda found: self.variables[found[1]], text)


def requests_in(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for item in items:
        yield from requests_in(item["item"]) if "item" in item else [item]


@pytest.mark.django_db(transaction=True)
def test_every_request_of_the_collection_succeeds(shop: dict[str, str], settings: Any, grpc_channel: Any) -> None:
    settings.WEBHOOKS_ALLOW_LOOPBACK, settings.ORDERS_ALLOW_FREE_LINES = True, False
    settings.ORDER_SERVICE_GRPC = grpc_channel.target
    made = collection.document(openapi.document())
    sender = Sender(
        made,
        base_url=shop["ORDERS_URL"],
        client_secret=shop["CLIENT_SECRET"],
        admin_secret=settings.ADMIN_SECRETS[0],
        url="http://127.0.0.1:9/",
    )
    sent = {item["name"]: sender.send(item) for item in requests_in(made["item"])}
    # Nothing pays the order here, and it is canceled before: there is no money to take or to give back.
    refused = {name: answer.json()["code"] for name, answer in sent.items() if not answer.ok}
    assert refused == {
        "Capture order": "not_authorized",
        "Refund order": "being_returned",
        "Get refund": "refund_not_found",
        "Place order: amount": "free_lines_not_allowed",
        "Grpc place order: amount": "free_lines_not_allowed",
    }
    assert sent["Get product"].json()["price"] == 24.99  # what was made and then changed
    assert sent["Get order"].json()["status"] == "voiding"
    assert sent["Get balance"].json()["balance"] == 50.0


# The generated client -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the client, as `make client` generates it."""
    folder = tmp_path_factory.mktemp("generated") / "orders-client"
    made = subprocess.run(["make", "client", f"CLIENT={folder}"], cwd=DOCS.parent, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


@pytest.mark.processes
class TestTheGeneratedClient:
    def test_has_every_field_of_every_request(self, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(package)
        models = importlib.import_module("orders_client.models")
        for name, schema in openapi.document()["components"]["schemas"].items():
            if "properties" in schema:
                fields = {field.name.rstrip("_") for field in attrs.fields(getattr(models, name))}
                assert schema["properties"].keys() <= fields, name
        assert "int" in str(attrs.fields(models.NewLineRequest).quantity.type)  # which `oneOf` beside it has swallowed

    @pytest.mark.django_db(transaction=True)
    def test_returns_orders_and_problems_as_objects(
        self, package: Path, shop: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(package)
        client, models = (importlib.import_module(f"orders_client{name}") for name in ("", ".models"))
        get_order, place_order, cancel_order = (
            importlib.import_module(f"orders_client.api.orders.{name}")
            for name in ("get_order", "place_order", "cancel_order")
        )

        def basket(quantity: int) -> Any:
            last = models.NewLineRequest(sku="demo-last-one", quantity=quantity, price=9.99)
            method = models.PaymentMethod.GATEWAY
            return models.NewOrderRequest(customer_id="cust-123", payment_method=method, items=[last])

        good, bad = (bearer("shop", *SCOPES)["Authorization"].removeprefix("Bearer "), "nonsense")
        for token, call, status, code in (
            (bad, lambda by: get_order.sync("none", client=by), 401, "authentication_failed"),
            (good, lambda by: get_order.sync("none", client=by), 404, "order_not_found"),
            (good, lambda by: place_order.sync(body=basket(2), client=by), 409, "insufficient_stock"),
        ):
            with client.AuthenticatedClient(base_url=shop["ORDERS_URL"], token=token) as by:
                problem = call(by)
            assert isinstance(problem, models.Problem)
            assert (problem.status, problem.code) == (status, code)
            assert problem.detail
            assert problem.correlation_id
        with client.AuthenticatedClient(base_url=shop["ORDERS_URL"], token=good) as by:
            placed = place_order.sync(body=basket(1), client=by)
            canceled = cancel_order.sync(placed.order_id, client=by)  # its body may be left out
        assert isinstance(canceled, models.Order)
        assert canceled.status is models.OrderStatus.VOIDING

    def test_is_used_with_strict_types(self, package: Path) -> None:
        mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={os.devnull}"]
        checked = subprocess.run(
            [*mypy, SAMPLES / "typed_client.py"],
            env=os.environ | {"MYPYPATH": str(package)}, capture_output=True, text=True,
        )  # fmt: skip
        assert checked.returncode == 0, checked.stdout

    @pytest.mark.django_db(transaction=True)
    def test_places_reads_lists_and_cancels_an_order(self, package: Path, shop: dict[str, str]) -> None:
        more = placed_and_canceled(follow("typed_client.py", PYTHONPATH=str(package), **shop))
        assert more == "refused invalid: {'items': ['Say what is ordered: items or an amount.']}\n"
