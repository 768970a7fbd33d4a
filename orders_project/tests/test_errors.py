"""Every error is a problem document, whatever endpoint it comes from."""

import ast
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import DatabaseError, OperationalError, connections, transaction
from django.http import HttpResponse, HttpResponseNotAllowed
from django.test import Client, RequestFactory
from rest_framework.exceptions import APIException, NotAcceptable, Throttled, ValidationError

from common.errors import Refusal
from orders import refunds, saga
from orders.saga import CancelRequested, CaptureRequested
from orders_project.http import errors
from orders_project.http.parsers import JSONParser
from orders_project.http.problem_types import code_of
from outbox import metrics

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def client() -> Client:
    return Client(raise_request_exception=False)


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["status"], body["code"]) == (status, status, code)
    assert body["type"].endswith(f"/problems/{code}")
    assert body["title"]
    assert body["detail"]
    assert body["correlation_id"]
    return body


def test_an_unknown_path(client: Client) -> None:
    answer = client.get("/no/such/path", headers={"X-Correlation-ID": "mine-1"})
    assert assert_problem(answer, 404, "not_found")["correlation_id"] == "mine-1" == answer["X-Correlation-ID"]


def lost(*args: object, **kwargs: object) -> None:
    raise OperationalError("the server closed the connection unexpectedly")


@pytest.mark.django_db
class TestAPageOfTheAdmin:
    @pytest.mark.parametrize(
        ("ask", "status", "words"),
        [
            (lambda one: one.get("/admin/no/such/path/"), 404, "There is no such page"),
            (lambda one: one.get("/admin/auth/user/"), 403, "You may not do this"),
            (lambda one: one.get("/admin/orders/order/?older=x%00"), 302, ""),
            (lambda one: one.get("/admin/", headers={"Host": "else.where"}), 400, "does not understand"),
            (lambda one: one.post("/admin/", "a" * 300_000, content_type="text/plain"), 413, "too large"),
            (lambda one: one.post("/admin/password_change/", {}), 403, "too old"),
            (lambda one: one.post("/admin/", headers={"Origin": "http://else.where"}), 403, "from another site"),
        ],
    )
    def test_says_what_is_wrong_and_leads_back(self, ask: Any, status: int, words: str) -> None:
        viewer = User.objects.create_user("viewer", is_staff=True)
        viewer.groups.add(Group.objects.get(name="viewer"))
        client = Client(raise_request_exception=False, enforce_csrf_checks=True)
        client.force_login(viewer)
        answer = ask(client)
        assert answer.status_code == status
        if words:
            assert words in answer.text
            assert 'href="/admin/"' in answer.text
            assert answer["X-Correlation-ID"] in answer.text

    @pytest.mark.parametrize(
        "where",
        ["django.contrib.sessions.backends.db.SessionStore.load", "common.admin.pages.KeysetChangeList.get_results"],
    )
    def test_whose_database_is_lost_is_answered_with_words(
        self, client: Client, where: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client.force_login(User.objects.create_superuser("boss"))
        monkeypatch.setattr(where, lost)
        answer = client.get("/admin/orders/order/", headers={"Accept-Language": "en"})
        assert (answer.status_code, answer["Retry-After"]) == (503, "5")
        assert "A database is not responding" in answer.text
        assert 'href="/admin/orders/order/"' in answer.text  # try again

    def test_is_in_the_language_of_the_viewer(self, client: Client) -> None:
        client.force_login(User.objects.create_superuser("boss"))
        answer = client.get("/admin/no/such/path/", headers={"Accept-Language": "ru"})
        assert 'lang="ru"' in answer.text


def test_a_database_lost_in_a_middleware_is_answered_as_unavailable(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orders_project.http.middleware.RequestLog.__call__", lost)
    assert_problem(client.get("/orders/x"), 503, "unavailable")


def test_a_wrong_method(client: Client) -> None:
    answer = client.delete("/orders")
    assert_problem(answer, 405, "method_not_allowed")
    assert "GET" in answer["Allow"] or "POST" in answer["Allow"]


def test_a_wrong_method_of_a_plain_view() -> None:
    middleware = errors.ErrorBodies(lambda request: HttpResponseNotAllowed(["GET"]))
    answer: Any = middleware(RequestFactory().post("/x"))
    assert answer["Allow"] == "GET"
    assert b'"code": "method_not_allowed"' in answer.content


def test_a_format_that_is_not_available(client: Client) -> None:
    assert_problem(client.get("/orders/x", headers={"Accept": "image/png"}), 406, "not_acceptable")
    assert errors.problem_of(NotAcceptable()) is not None


def test_a_language_that_does_not_exist(client: Client) -> None:
    answer = client.post("/orders", "<order/>", content_type="application/xml")
    assert_problem(answer, 415, "unsupported_media_type")


def test_a_body_too_large(client: Client) -> None:
    body = '{"description": "%s"}' % ("x" * 256 * 1024)
    assert_problem(client.post("/orders", body, content_type="application/json"), 413, "too_large")
    form = "description=" + "x" * 256 * 1024
    answer = client.post(
        "/orders", form, content_type="application/x-www-form-urlencoded", headers={"Accept": "text/html"}
    )
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        "{",
        '{"amount": NaN}',
        '{"amount": -Infinity}',
        '{"a": 1, "a": 2}',
        '{"a": "\\u0000"}',
        '{"a": ["\\ud800"]}',
        '{"\\ud800": 1}',
        "[" * 100_000,
        '{"a": ' + "9" * 5000 + "}",
        "",
        "\ufeff{}",
        b"\xff\xfe",
    ],
)
def test_bodies_that_are_not_json(client: Client, body: str | bytes) -> None:
    answer = client.post("/orders", body or " ", content_type="application/json")
    assert_problem(answer, 400, "malformed")


def test_numbers_stay_exact() -> None:
    import io
    from decimal import Decimal

    assert JSONParser().parse(io.BytesIO(b'{"price": 0.1}')) == {"price": Decimal("0.1")}


def test_a_server_error_shows_no_traceback(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from orders import api

    def stumble(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(api.OneOrder, "get", stumble)
    answer = client.get("/orders/x", headers={"X-Correlation-ID": "mine-2"})
    assert_problem(answer, 500, "internal")
    assert answer.json()["correlation_id"] == "mine-2"
    assert "secret inside" not in answer.text


def test_a_refusal_has_its_code_its_fields_and_its_extra_members() -> None:
    class Lacking(Refusal):
        code = "insufficient_stock"

    problem = errors.problem_of(Lacking("No.", errors={"items[0]": ["lamp"]}, extra={"lacking": ["lamp"], "status": 1}))
    assert problem is not None
    body = problem.body()
    assert (body["status"], body["code"], body["lacking"]) == (409, "insufficient_stock", ["lamp"])
    assert body["errors"] == {"items[0]": ["lamp"]}


def test_a_delay_is_in_the_header() -> None:
    class Slower(Refusal):
        code = "rate_limited"

    for error in (Slower("Slower.", extra={"retry_after": 7}), Throttled(wait=7)):
        problem = errors.problem_of(error)
        assert problem is not None
        assert (problem.status, problem.code, problem.headers["Retry-After"]) == (429, "rate_limited", "7")


def test_nested_messages_are_listed_by_path() -> None:
    error = ValidationError(
        {"items": [{}, {"price": ["No number."], "tags": ["Odd."]}], "non_field_errors": ["Either or."]}
    )
    problem = errors.problem_of(error)
    assert problem is not None
    assert problem.errors == {
        "items[1].price": ["No number."],
        "items[1].tags": ["Odd."],
        "body": ["Either or."],
    }


# Refusals that only people see, in the back office and in commands.
FOR_PEOPLE = frozenset({
    "already_decided", "amount_changed", "bad_client", "bad_settlement_file", "bad_signature", "client_exists",
    "difference_not_open", "gateway_cannot_be_asked", "insufficient_funds", "money_is_not_stray", "name_taken",
    "no_money_at_gateway", "not_rebuilt", "nothing_known", "nothing_to_repeat", "order_has_another_payment",
    "out_of_turn", "return_not_refused", "several_clients", "state_changed", "still_open", "too_many_filters",
    "too_many_rows", "waits_for_approval", "webhook_does_not_match", "webhook_not_handled", "webhook_not_open",
})  # fmt: skip


def subclasses(kind: type) -> Iterator[Any]:
    each: Any
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def used() -> set[str]:
    """Every code that the source names or derives, wherever it does."""
    codes = {kind.code for kind in subclasses(Refusal) if ".tests." not in kind.__module__} | {*refunds.REFUSALS}
    codes |= {code for asked in (CancelRequested, CaptureRequested) for code in saga.REFUSED[asked].values()}
    raised = [kind for kind in (APIException, *subclasses(APIException)) if ".tests." not in kind.__module__]
    codes |= {errors.RENAMED.get(kind.default_code, kind.default_code) for kind in raised}
    codes |= {code_of(status) for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST}
    for source in PROJECT.glob("[!.]*/**/*.py"):
        if "tests" not in source.parts and "Problem(" in (text := source.read_text()):
            codes |= {code for call in ast.walk(ast.parse(text)) for code in named_by(call)}
    gateway = (PROJECT / "docker" / "nginx" / "gateway.conf.template").read_text()
    return codes | set(re.findall(r'"code":"(\w+)"', gateway))


def named_by(call: ast.AST) -> Iterator[str]:
    """The code in `Problem(status, code, …)`, if it is not made of something else."""
    match call:
        case ast.Call(func=ast.Name(id="Problem"), args=[_, ast.Constant(value=str(code)), *_]):
            yield code


@pytest.mark.parametrize("language", ["en", "ru"])
def test_every_code_is_listed_with_its_meaning(client: Client, language: str) -> None:
    answer = client.get("/problems", headers={"Accept-Language": language})
    assert answer["Content-Language"] == language
    listed = {each["code"]: each for each in answer.json()["results"]}
    assert all(each["meaning"].strip() and each["title"] and each["status"] >= 400 for each in listed.values())
    codes = used()
    assert codes - listed.keys() <= FOR_PEOPLE
    assert {"admin_secret_needed", "bad_gateway", "cross_site", "timeout", "uri_too_long"} <= codes
    for code in ("insufficient_stock", "order_not_found", "unavailable"):
        assert client.get(f"/problems/{code}", headers={"Accept-Language": language}).json() == listed[code]


def refuse(state: str) -> None:
    """Have the database of orders raise this SQLSTATE."""
    with transaction.atomic(using="orders"), connections["orders"].cursor() as cursor:
        cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '{state}'; END $$")


@pytest.mark.django_db
class TestADatabaseThatCannot:
    @pytest.mark.parametrize("state", ["25006", "25P03", "40P01", "53100", "55P03", "57014", "57P01"])
    def test_is_answered_as_unavailable_counted_and_logged_in_one_line(
        self, client: Client, state: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("orders.services.get_order", lambda **_: refuse(state))
        counted = metrics.DATABASE_ERRORS.labels(state)._value.get()
        answer = client.get("/orders/x")
        assert_problem(answer, 503, "unavailable")
        assert answer["Retry-After"] == "5"
        assert metrics.DATABASE_ERRORS.labels(state)._value.get() == counted + 1
        (line,) = [record for record in caplog.records if state in record.getMessage()]
        assert (line.levelname, line.exc_info, "\n" in line.getMessage()) == ("WARNING", None, False)

    def test_is_no_excuse_for_a_mistake_of_ours(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("orders.services.get_order", lambda **_: refuse("42P01"))
        assert_problem(client.get("/orders/x"), 500, "internal")

    @pytest.mark.parametrize(("path", "form"), [("/admin/orders/order/", "text/html"), ("/x", errors.MEDIA_TYPE)])
    def test_is_a_page_in_the_admin(self, path: str, form: str) -> None:
        with pytest.raises(DatabaseError) as caught:
            refuse("55P03")
        middleware = errors.ErrorBodies(lambda request: HttpResponse())
        answer: Any = middleware.process_exception(RequestFactory().get(path), caught.value)
        assert (answer.status_code, answer["Retry-After"]) == (503, "5")
        assert answer["Content-Type"].startswith(form)
        assert middleware.process_exception(RequestFactory().get(path), ValueError()) is None
