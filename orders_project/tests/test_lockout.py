"""Guessing of secrets and passwords: it is limited before anything is hashed, and nothing that was typed is kept."""

import base64
from importlib import import_module
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.hashers import BasePasswordHasher, MD5PasswordHasher
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connections
from django.test import Client

from orders_project.tests.callers import new_key

pytestmark = pytest.mark.django_db

GRANT = {"grant_type": "client_credentials"}


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_key(tmp_path_factory.mktemp("keys") / "key.pem")


@pytest.fixture(autouse=True)
def required(settings: Any, key_file: str) -> None:
    settings.API_AUTH = "required"
    settings.JWT_KEY_FILES = [key_file]


@pytest.fixture
def http() -> Client:
    return Client(raise_request_exception=False)


@pytest.fixture
def secret() -> str:
    """The secret of the client `shop`."""
    out = StringIO()
    call_command("client", "create", "shop", "--scopes", "orders:read", stdout=out)
    return out.getvalue().split("client_secret=")[1].strip()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is hashed during the test."""
    seen: list[str] = []
    encode = MD5PasswordHasher.encode

    def spy(self: BasePasswordHasher, password: str, *args: Any) -> str:
        seen.append(password)
        return encode(self, password, *args)

    monkeypatch.setattr(MD5PasswordHasher, "encode", spy)
    return seen


def basic(name: str, secret: str, *, scheme: str = "Basic") -> dict[str, str]:
    return {"Authorization": f"{scheme} {base64.b64encode(f'{name}:{secret}'.encode()).decode()}"}


def ask(http: Client, name: str, secret: str, *, address: str = "192.0.2.1") -> Any:
    return http.post("/oauth/token", GRANT, headers=basic(name, secret) | {"X-Forwarded-For": address})


class TestTheTokenEndpoint:
    def test_locks_a_client_out_at_an_address_after_five_wrong_secrets(self, http: Client, secret: str) -> None:
        assert [ask(http, "shop", "wrong").status_code for _ in range(5)] == [401] * 5
        locked = ask(http, "shop", secret)
        assert (locked.status_code, locked.json()["error"]) == (429, "invalid_client")
        assert 800 < int(locked["Retry-After"]) <= 900
        assert ask(http, "shop", secret, address="192.0.2.2").status_code == 200

    def test_forgets_failures_after_the_right_secret(self, http: Client, secret: str) -> None:
        for given in ("wrong", "wrong", "wrong", "wrong", secret, "wrong", "wrong"):
            last = ask(http, "shop", given)
        assert last.status_code == 401
        assert ask(http, "shop", secret).status_code == 200

    @pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC", "bAsIc"])
    def test_refuses_two_ways_at_once(self, http: Client, secret: str, hashed: list[str], scheme: str) -> None:
        """The attack: a new name in the header for each guess, and the victim in the body."""
        body = GRANT | {"client_id": "shop", "client_secret": secret}
        for headers in (basic("other", "x", scheme=scheme), basic("shop", secret, scheme=scheme)):
            answer = http.post("/oauth/token", body, headers=headers)
            assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
        assert hashed == []

    @pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
    def test_counts_the_client_that_it_loads(self, http: Client, secret: str, scheme: str) -> None:
        for number in range(5):
            assert (
                http.post("/oauth/token", GRANT, headers=basic("shop", f"{number}", scheme=scheme)).status_code == 401
            )
        for headers, body in (
            (basic("shop", secret), GRANT),
            (basic("sho%70", secret), GRANT),  # the same name in another spelling
            ({}, GRANT | {"client_id": "shop", "client_secret": secret}),
        ):
            assert http.post("/oauth/token", body, headers=headers).status_code == 429, headers

    @pytest.mark.parametrize(
        ("headers", "body"),
        [
            ({"Authorization": "Bearer x"}, {"client_id": "shop", "client_secret": "y"}),
            ({"Authorization": "Basic"}, {"client_id": "shop", "client_secret": "y"}),
            ({"Authorization": "Basic !!!"}, {"client_id": "shop", "client_secret": "y"}),
            ({"Authorization": "Basic c2hvcA=="}, {}),
            (basic("shop", "x\0"), {}),
            (basic("shop", "x"), {"client_id": "other"}),
            ({}, {"client_id": ["other", "shop"], "client_secret": "x"}),
        ],
    )
    def test_refuses_what_can_be_read_in_two_ways(
        self, http: Client, secret: str, hashed: list[str], headers: dict[str, str], body: dict[str, Any]
    ) -> None:
        answer = http.post("/oauth/token", GRANT | body, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
        assert hashed == []

    def test_takes_no_credentials_from_the_address(self, http: Client, secret: str) -> None:
        answer = http.post(f"/oauth/token?client_id=shop&client_secret={secret}", GRANT)
        assert answer.status_code in (400, 401)
        assert "access_token" not in answer.json()

    def test_hashes_for_every_name_alike(self, http: Client, secret: str, hashed: list[str]) -> None:
        for name in ("shop", "nobody"):
            hashed.clear()
            assert ask(http, name, "wrong").status_code == 401
            assert hashed == ["wrong"], name

    def test_stops_hashing_for_an_address_that_tries_new_names(
        self, http: Client, hashed: list[str], settings: Any
    ) -> None:
        settings.RATE_LIMIT_LOGINS_PER_MINUTE = 6
        answers = [
            ask(http, f"name-{number}", "x", address=f"2001:db8::{number:x}").status_code for number in range(1, 21)
        ]
        assert answers == [401] * 6 + [429] * 14
        assert len(hashed) == 6
        assert ask(http, "name", "x", address="2001:db8:0:1::1").status_code == 401


class TestTheLogin:
    @pytest.fixture(autouse=True)
    def boss(self) -> User:
        return User.objects.create_superuser("boss", password="right-and-long")

    def login(self, http: Client, password: str, name: str = "boss") -> Any:
        return http.post("/admin/login/", {"username": name, "password": password})

    def test_locks_a_user_out_at_an_address_after_five_wrong_passwords(self, http: Client) -> None:
        assert [self.login(http, "wrong").status_code for _ in range(5)] == [200] * 5
        locked = self.login(http, "right-and-long")
        assert locked.status_code == 429
        assert "Too many attempts" in locked.content.decode()
        assert 800 < int(locked["Retry-After"]) <= 900
        assert "sessionid" not in http.cookies

    def test_stops_hashing_for_an_address_that_tries_new_names(
        self, http: Client, hashed: list[str], settings: Any
    ) -> None:
        settings.RATE_LIMIT_LOGINS_PER_MINUTE = 3
        answers = [self.login(http, "x", f"name-{number}").status_code for number in range(8)]
        assert answers == [200] * 3 + [429] * 5
        assert len(hashed) == 3

    def test_hashes_for_every_name_alike(self, http: Client, hashed: list[str]) -> None:
        for name in ("boss", "nobody"):
            hashed.clear()
            self.login(http, "wrong", name)
            assert hashed == ["wrong"], name

    def test_ends_by_itself_within_hours(self, http: Client, settings: Any) -> None:
        assert self.login(http, "right-and-long").status_code == 302
        assert 0 < http.cookies["sessionid"]["max-age"] == settings.SESSION_COOKIE_AGE <= 12 * 3600


def test_nothing_that_was_typed_is_stored_or_logged(
    http: Client, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A right secret with a wrong id, and a password in the field of the name."""
    User.objects.create_superuser("boss", password="right-and-long")
    http.post("/oauth/token", GRANT | {"client_id": "shpo", "client_secret": secret})
    http.post("/oauth/token", GRANT | {"client_id": secret, "client_secret": "shop"})
    http.post("/admin/login/", {"username": "right-and-long", "password": "boss"})
    stored = []
    with connections["default"].cursor() as cursor:
        for table in connections["default"].introspection.table_names(cursor):
            cursor.execute(f'SELECT t::text FROM "{table}" t')
            stored += [text for (text,) in cursor.fetchall()]
    for typed in (secret, "right-and-long"):
        assert typed not in "\n".join(stored)
        assert typed not in caplog.text
    assert "Wrong client secret for an unknown name from 127.0.0.1." in caplog.text


@pytest.mark.django_db(transaction=True, databases=["default"])
def test_what_was_stored_before_is_purged() -> None:
    no_bodies = import_module("orders_project.migrations.0007_no_typed_secrets")
    purge, *_ = import_module("orders_project.migrations.0008_purge").Migration.operations
    with connections["default"].cursor() as cursor:
        cursor.execute("CREATE TABLE axes_accessattempt (id int, get_data text NOT NULL, post_data text NOT NULL)")
        try:
            cursor.execute("INSERT INTO axes_accessattempt VALUES (1, '', 'client_secret=readable')")
            cursor.execute(no_bodies.STORE_NO_BODIES)
            with connections["default"].schema_editor(atomic=False) as editor:
                purge.database_forwards("orders_project", editor, None, None)
            cursor.execute("SELECT count(*) FROM axes_accessattempt")
            assert cursor.fetchone() == (0,)
            cursor.execute("INSERT INTO axes_accessattempt VALUES (2, 'x', 'client_secret=readable')")
            cursor.execute("SELECT get_data, post_data FROM axes_accessattempt")
            assert cursor.fetchall() == [("", "")]
        finally:
            cursor.execute("DROP TABLE axes_accessattempt; DROP FUNCTION axes_store_no_bodies")
