"""The environment: every variable is documented, and dangerous values end the process."""

import itertools
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from orders_project import __version__
from orders_project.auth import keys

PROJECT = Path(__file__).resolve().parents[2]
SERVICES = ("ORDERS", "PAYMENTS", "PROCESSING")
NOT_IN_SETTINGS = {"ENV_FILE", "DEBUG", "EMBEDDED", "PORT", "DATA", "POSTGRES_SOURCE", "OTEL_EXPORTER_OTLP_ENDPOINT"}


def documented() -> dict[str, str]:
    """Each variable with the comment above it."""
    lines = (PROJECT / ".env.example").read_text().splitlines()
    return {
        line.removeprefix("#").partition("=")[0]: above
        for above, line in itertools.pairwise(lines)
        if re.match(r"#?[A-Z0-9_]+=", line) and above.startswith("# ")
    }


def test_every_variable_is_documented_and_nothing_else() -> None:
    source = (PROJECT / "orders_project" / "settings.py").read_text()
    read = set(re.findall(r'env\.\w+\(\s*"([A-Z0-9_]+)"', source)) | {f"DATABASE_URL_{service}" for service in SERVICES}
    assert documented().keys() == read | NOT_IN_SETTINGS


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("keys") / "key.pem"
    keys.make(path)
    return str(path)


@pytest.fixture
def production(key_file: str) -> dict[str, str]:
    """The variables that a run in production needs."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "VIRTUAL_ENV")}
    databases = {name: f"postgres://app@127.0.0.1:1/{name.lower()}" for name in ("DATABASE_URL", *_of_services())}
    return kept | databases | {
        "AMQP_URL": "amqp://app@127.0.0.1:1//",
        "PUBLIC_URL": "https://shop.example",
        "ALLOWED_HOSTS": "shop.example",
        "SECRET_KEY": secrets.token_urlsafe(60),
        "ADMIN_SECRET": secrets.token_urlsafe(30),
        "PAYMENT_WEBHOOK_SECRET": secrets.token_urlsafe(30),
        "ENCRYPTION_KEY": secrets.token_urlsafe(48),
        "JWT_KEY_FILES": key_file,
    }  # fmt: skip


def _of_services() -> list[str]:
    return [f"DATABASE_URL_{service}" for service in SERVICES]


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.processes
def test_production_starts_without_problems(production: dict[str, str]) -> None:
    done = run(production, "manage.py", "check", "--deploy", "--fail-level", "WARNING")
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


@pytest.mark.processes
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ADMIN_SECRET": "dev-admin-secret"}, "ADMIN_SECRET is a development secret"),
        ({"ADMIN_SECRET": ""}, "ADMIN_SECRET is missing"),
        ({"ADMIN_SECRET": "short"}, "ADMIN_SECRET is too short"),
        ({"ADMIN_SECRET": "long-enough-for-everybody,dev-admin-secret"}, "ADMIN_SECRET is a development secret"),
        ({"PAYMENT_WEBHOOK_SECRET": "dev-webhook-secret"}, "PAYMENT_WEBHOOK_SECRET is a development secret"),
        ({"SECRET_KEY": "dev-secret-key"}, "SECRET_KEY is a development secret"),
        ({"SECRET_KEY": "x" * 49}, "SECRET_KEY is too short"),
        ({"ENCRYPTION_KEY": ""}, "ENCRYPTION_KEY is missing"),
        ({"API_AUTH": "open"}, "API_AUTH is open"),
        ({"API_AUTH": "ajar"}, "API_AUTH: 'ajar' is not one of"),
        ({"DATABASE_URL_ORDERS": ""}, "DATABASE_URL_ORDERS is missing"),
        ({"TRUSTED_PROXIES": "everybody"}, "TRUSTED_PROXIES: 'everybody' is not an address"),
    ],
)
def test_dangerous_values_end_the_process(production: dict[str, str], changes: dict[str, str], why: str) -> None:
    done = run(production | changes, "-c", "import orders_project.settings")
    assert (done.returncode, why in done.stderr) == (78, True), done.stderr


@pytest.mark.processes
def test_an_open_api_can_be_intended(production: dict[str, str]) -> None:
    meant = production | {"API_AUTH": "open", "API_AUTH_OPEN_ACKNOWLEDGED": "true"}
    assert run(meant, "-c", "import orders_project.settings").returncode == 0


@pytest.mark.processes
def test_the_web_does_not_start_without_keys(production: dict[str, str]) -> None:
    done = run(production | {"JWT_KEY_FILES": ""}, "-c", "import orders_project.wsgi")
    assert done.returncode == 1
    assert "JWT_KEY_FILES is missing" in done.stderr


@pytest.mark.processes
def test_a_service_verifies_tokens_without_the_back_office(production: dict[str, str]) -> None:
    """The web of one service verifies tokens with the key alone: it has no other database."""
    service = {name: value for name, value in production.items() if not name.startswith("DATABASE_URL")}
    service |= {"SERVICES": "payments", "DATABASE_URL_PAYMENTS": production["DATABASE_URL_PAYMENTS"]}
    script = (
        "from orders_project.wsgi import application; from django.test import Client; import time;"
        "from orders_project.auth import keys; now = int(time.time());"
        "token = keys.sign({'sub': 'shop', 'scope': 'orders:read', 'iat': now, 'exp': now + 60});"
        "ask = lambda token: Client().get('/accounts/ann/balance', secure=True, headers={'host': 'shop.example',"
        " 'authorization': 'Bearer ' + token}).status_code;"
        "print(ask('x'), ask(token))"
    )
    done = run(service, "-c", script)
    assert done.stdout.split() == ["401", "403"], done.stderr


@pytest.mark.processes
@pytest.mark.parametrize("argument", ["version", "--version"])
def test_manage_py_shows_the_version_of_the_project(argument: str) -> None:
    done = run(dict(os.environ), "manage.py", argument)
    assert (done.returncode, done.stdout.strip()) == (0, __version__)
    assert f"## {__version__} - " in (PROJECT / "CHANGELOG.md").read_text()
