"""The start page, the schema and the documentation list every endpoint, and load nothing from other hosts."""

import html
import json
import re
from io import StringIO
from typing import Any

import pytest
import yaml
from django.core.management import call_command
from django.test import Client
from django.urls import Resolver404, resolve
from drf_spectacular.generators import SchemaGenerator
from jsonschema import Draft202012Validator

from orders_project.contracts import asyncapi
from orders_project.http import pages
from orders_project.http.pages import ENDPOINTS

pytestmark = pytest.mark.django_db


@pytest.fixture
def http() -> Client:
    return Client(raise_request_exception=False)


def described(http: Client) -> dict[str, Any]:
    description: dict[str, Any] = json.loads(http.get("/schema", headers={"Accept": "application/json"}).content)
    return description


class TestTheDescription:
    def test_is_sound(self) -> None:
        call_command("spectacular", "--validate", "--fail-on-warn", stdout=StringIO())

    def test_is_made_once_for_each_form(self, http: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[Any] = []
        make = SchemaGenerator.get_schema

        def counted(*args: Any, **options: Any) -> Any:
            made.append(options)
            return make(*args, **options)

        monkeypatch.setattr(SchemaGenerator, "get_schema", counted)
        pages._description.cache_clear()
        forms = [{"Accept": accept} for accept in ("application/json", "application/yaml", "*/*")]
        first, again = ([http.get("/schema", headers=form) for form in forms] for _ in range(2))
        assert [answer.content for answer in first] == [answer.content for answer in again]
        assert http.get("/schema?format=json&lang=ru&version=2").status_code == 200
        assert len(made) <= 4  # of the renderers
        for path in ("/docs", "/docs?script=", "/redoc"):
            assert http.get(path).status_code == 200
        known = http.get("/schema", headers={"If-None-Match": first[2]["ETag"]})
        assert (known.status_code, known.content) == (304, b"")
        assert len(made) <= 4

    def test_has_every_endpoint(self, http: Client) -> None:
        description = described(http)
        assert description["openapi"] == "3.1.0"
        listed = {path.partition("?")[0] for path in ENDPOINTS.values()}
        assert set(description["paths"]) <= listed
        others = {"/admin/", "/asyncapi", "/health", "/metrics", "/schema", "/docs", "/redoc", "/oauth/token"}
        others |= {"/problems"}
        assert listed - set(description["paths"]) == others | {"/.well-known/jwks.json"}

    def test_shows_errors_examples_and_scopes(self, http: Client) -> None:
        place = described(http)["paths"]["/orders"]["post"]
        assert {"201", "400", "401", "403", "409", "413", "415", "429"} <= place["responses"].keys()
        assert place["requestBody"]["content"]["application/json"]["examples"].keys() == {
            "catalogue", "lines", "amount", "kinds",
        }  # fmt: skip
        assert {"clients": ["orders:write"]} in place["security"]

    def test_is_as_strict_as_the_endpoints(self, http: Client) -> None:
        description = described(http)
        schemas = description["components"]["schemas"]
        new = {name: schema for name, schema in schemas.items() if name.endswith("Request")}
        assert len(new) == 11
        assert not [name for name, schema in new.items() if schema["additionalProperties"]]
        order = new["NewOrderRequest"]
        assert (order["properties"]["items"]["minItems"], order["properties"]["items"]["maxItems"]) == (1, 100)
        check = Draft202012Validator({**order, "components": description["components"]})
        for example in description["paths"]["/orders"]["post"]["requestBody"]["content"]["application/json"][
            "examples"
        ].values():
            check.validate(example["value"])
        for body in (
            {}, {"user_id": "ann"}, {"amount": 1}, {"user_id": "ann", "amount": 1, "colour": "red"},
            {"user_id": "ann", "amount": 1, "items": [{"sku": "x", "quantity": 1, "price": 1}]},
            {"user_id": " ", "amount": 1}, {"user_id": "a\nb", "amount": 1}, {"user_id": "ann", "amount": "01"},
            {"customer_id": "c", "amount": 1, "payment_method": "account"}, {"user_id": "ann", "items": []},
            {"user_id": "ann", "items": [{"sku": "x", "quantity": 1}]}, {"user_id": "ann", "amount": 0},
            {"user_id": "ann", "items": [{"sku": "x", "quantity": "1", "price": 1}]},
            {"user_id": "ann", "amount": 1, "currency": "EUR"}, {"user_id": "x" * 101, "amount": 1},
        ):  # fmt: skip
            assert not check.is_valid(body), body
            assert http.post("/orders", body, content_type="application/json").status_code in (400, 409), body

    def test_its_examples_are_accepted(self, http: Client) -> None:
        examples = described(http)["paths"]["/orders"]["post"]["requestBody"]["content"]["application/json"]["examples"]
        for name in ("lines", "amount"):
            answer = http.post("/orders", examples[name]["value"], content_type="application/json")
            assert answer.status_code == 201, answer.content


@pytest.mark.parametrize("path", ["/docs", "/docs/?script=", "/redoc/", "/asyncapi", "/event-types", "/"])
def test_a_page_loads_nothing_from_other_hosts(http: Client, path: str) -> None:
    answer = http.get(path, headers={"Accept": "text/html,*/*"})
    assert answer.status_code == 200
    page = answer.content.decode()
    loaded = re.findall(r"(?:\bsrc|<link[^>]*\bhref)=[\"']?([^\"' >]+)", page)
    assert not [source for source in loaded if "//" in source]
    for source in re.findall(r"(?:src|href)=\"(/static/[^\"]+)\"", page):
        assert http.get(source).status_code == 200, source
    policy = answer["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert not re.search(r"<script(?![^>]*(?:src=|application/json))", page), "a script in the page would be blocked"


class TestTheMessages:
    YAML, JSON, HTML = "application/yaml", "application/json", "text/html"
    BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

    @pytest.mark.parametrize(
        ("path", "accept", "form"),
        [
            ("/asyncapi", "*/*", YAML), ("/asyncapi/", JSON, JSON), ("/asyncapi", BROWSER, HTML),
            ("/asyncapi", "image/png", YAML), ("/asyncapi.yaml", BROWSER, YAML), ("/asyncapi.json", BROWSER, JSON),
            ("/asyncapi.html", "*/*", HTML),
        ],
    )  # fmt: skip
    def test_have_the_form_that_was_asked_for(self, http: Client, path: str, accept: str, form: str) -> None:
        answer = http.get(path, headers={"Accept": accept})
        assert answer["Content-Type"] == f"{form}; charset=utf-8"
        assert "Accept" in answer["Vary"]
        if form != self.HTML:
            read = json.loads if form == self.JSON else yaml.safe_load
            assert read(answer.content) == asyncapi.document()

    def test_are_shown_with_their_fields_and_examples(self, http: Client) -> None:
        page = html.unescape(http.get("/asyncapi.html").content.decode())
        plain = re.sub("</?code>", "", page)
        components = asyncapi.document()["components"]
        for name, message in components["messages"].items():
            assert f"<code>{name}</code>" in page
            assert message["summary"].replace("`", "") in plain
            assert json.dumps(message["examples"][0]["payload"], indent=2, ensure_ascii=False) in page
        for schema in components["schemas"].values():
            for field in schema.get("properties", ()):
                assert f"<code>{field}</code>" in page
        targets = set(re.findall(r'id="([^"]+)"', page))
        assert set(re.findall(r'href="#([^"]+)"', page)) <= targets

    def test_are_shown_in_the_language_of_the_viewer(self, http: Client) -> None:
        page = http.get("/asyncapi.html", headers={"Accept-Language": "ru"})
        assert page["Content-Language"] == "ru"
        assert {"Accept-Language", "Cookie"} <= set(page["Vary"].split(", "))
        assert '<html lang="ru"' in page.content.decode()
        assert "An order was accepted." in page.content.decode()
        assert http.get("/asyncapi.json", headers={"Accept-Language": "ru"}).json() == asyncapi.document()


def test_the_root_lists_endpoints_that_exist(http: Client) -> None:
    listed = http.get("/").json()
    ids = ("product_id", "refund_id", "endpoint_id", "delivery_id")
    values = {"order_id": "ord-001", "user_id": "ann"} | dict.fromkeys(ids, "01a1fe01-4d49-7bd4-9e70-2e5fa2680929")
    for url in listed.values():
        path = re.sub(r"^https?://[^/]+", "", url).partition("?")[0].format(**values, gateway="fake")
        try:
            resolve(path)
        except Resolver404:
            pytest.fail(f"{path} leads nowhere")


def test_the_type_of_a_problem_links_to_its_meaning(http: Client) -> None:
    problem = http.get("/orders/no-such-order").json()
    path = re.sub(r"^https?://[^/]+", "", problem["type"])
    assert http.get(path).json() == http.get(f"{path}/").json()
    assert http.get(path).json()["status"] == 404
    assert http.get("/problems").json() == http.get("/problems/").json()
    assert http.get("/problems/never-heard-of").status_code == 404


def test_the_browsable_api_has_a_form(http: Client) -> None:
    page = http.get("/orders", headers={"Accept": "text/html"}).content.decode()
    assert '<label for="field-user_email"' in page
    assert 'id="field-user_email" name="user_email"' in page
    assert '<html lang="en">' in page
