"""The environment: every variable is documented, and dangerous values end the process."""

import contextlib
import itertools
import os
import re
import runpy
import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orders_project import __version__
from orders_project.auth import keys
from orders_project.tests import forked

from . import compose, kubernetes

PROJECT = Path(__file__).resolve().parents[2]
SERVICES = ("ORDERS", "PAYMENTS", "PROCESSING")
NOT_IN_SETTINGS = {
    "ENV_FILE",
    "DEBUG",
    "EMBEDDED",
    "PORT",
    "DATA",
    "BACKUPS",
    "ORDERS_CACHE",
    "POSTGRES_SOURCE",
    "RABBITMQ_RELEASE",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
}


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
    read = set(re.findall(r'env\.\w+\(\s*"([A-Z0-9_]+)"', source))
    read |= {f"DATABASE_URL_{service}{what}" for service in SERVICES for what in ("", "_READ", "_DIRECT")}
    read |= {"DATABASE_URL", "DATABASE_URL_DIRECT"}
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
        "PAYMENT_GATEWAY": "stripe",
        "INSTALLATION": "shop",
        "STRIPE_API_KEY": f"sk_test_{secrets.token_hex(20)}",
        "STRIPE_WEBHOOK_SECRET": f"whsec_{secrets.token_hex(20)}",
        "ENCRYPTION_KEY": secrets.token_urlsafe(48),
        "JWT_KEY_FILES": key_file,
    }  # fmt: skip


def _of_services() -> list[str]:
    return [f"DATABASE_URL_{service}" for service in SERVICES]


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return forked.run(["python", *command], env=environment)


@pytest.mark.processes
def test_production_starts_without_problems(production: dict[str, str]) -> None:
    done = run(production, "manage.py", "check", "--deploy", "--fail-level", "WARNING")
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("ADMIN_SECRET", "dev-admin-secret", "is a development secret"),
        ("ADMIN_SECRET", "", "is missing"),
        ("ADMIN_SECRET", "short", "is too short"),
        ("ADMIN_SECRET", "long-enough-for-everybody,dev-admin-secret", "is a development secret"),
        ("ADMIN_SECRET", "abababababababababab", "is easy to guess"),
        ("ADMIN_SECRET", "change-me-before-you-start", "is a placeholder"),
        ("ADMIN_SECRET", "TODO_4fPq8Zr1LmN7vWb3Yc9HsJ6gTdKx", "is a placeholder"),
        ("PAYMENT_WEBHOOK_SECRET", "dev-webhook-secret", "is a development secret"),
        ("PAYMENT_WEBHOOK_SECRET", "x", "is too short"),
        ("SECRET_KEY", "dev-secret-key", "is a development secret"),
        ("SECRET_KEY", "x" * 49, "is too short"),
        ("ENCRYPTION_KEY", "", "is missing"),
        ("STRIPE_WEBHOOK_SECRET", "x", "is too short"),
        ("STRIPE_WEBHOOK_SECRET", "", "is missing"),
        ("STRIPE_API_KEY", "sk_test", "is too short"),
        ("STRIPE_API_KEY", "", "is missing"),
        ("STRIPE_API_URL", "http://stripe.example", "is http://"),
        ("INSTALLATION", "", "is missing"),
        ("PAYMENT_GATEWAY", "", "is missing: stripe, or fake"),
        ("PAYMENT_GATEWAY", "fake", "is fake"),
        ("TEST_MODE", "true", "lets whoever orders decide"),
        ("PUBLIC_URL", "", "is missing: a URL such as https://"),
        ("PUBLIC_URL", "http://shop.example", "is http://"),
        ("ALLOWED_HOSTS", "*", "accepts every host"),
        ("ALLOWED_HOSTS", "shop.example,*", "accepts every host"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,::/0", "trusts everybody"),
        ("TRUSTED_PROXIES", "everybody", "'everybody' is not an address"),
        ("WEBHOOKS_ALLOW_LOOPBACK", "true", "lets customers reach"),
        ("CURRENCIES", "USD,XXX", "there is no XXX"),
        ("REFUND_APPROVAL_LIMITS", "JPY=many", "JPY has no whole number"),
        ("ORDERS_QUEUES", "0", "'0' is not a whole number from 1 to 64"),
        ("ORDERS_QUEUES", "65", "'65' is not a whole number from 1 to 64"),
        ("ORDERS_QUEUES", "two", "'two' is not a whole number from 1 to 64"),
        ("WORKER_QUEUES", "0,1", "there is no 1; there are 0."),
        ("WORKER_QUEUES", "orders.1", "there is no orders.1"),
        ("API_AUTH", "open", "is open"),
        ("API_AUTH", "ajar", "'ajar' is not one of"),
        ("DATABASE_URL_ORDERS", "", "is missing"),
        ("DATABASE_URL_ORDERS_READ", "mysql://standby.example/orders", "is not a URL"),
        ("READ_LAG_MAX_SECONDS", "soon", "'soon' is not a number of seconds"),
        ("DATABASE_URL_ORDERS_DIRECT", "postgres://app@127.0.0.1:1/orders", "leads to the same server as"),
        ("DATABASE_URL_DIRECT", "https://127.0.0.1/default", "is not a URL"),
        ("DATABASE_URL_DIRECT", "https://a:1,b:2/default", "is not a URL"),
        ("OTHER_REGION_DATABASE_URLS", "postgres://app@one,two/orders", "one host in each"),
        ("OTHER_REGION_DATABASE_URLS", "postgres://app@one:port/orders", "one host in each"),
        ("OTHER_REGION_DATABASE_URLS", "postgres://app@one/orders,postgres://", "one host in each"),
        ("DATABASE_URL_ORDERS", "postgres://app@[::1/orders", "is not a URL"),
        ("DATABASE_URL_ORDERS", "postgres://app@127.0.0.1:1", "names no database"),
        ("DATABASE_URL_ORDERS", "postgres://app@one,two/", "names no database"),
        ("DATABASE_URL_ORDERS_READ", "postgres://app@one,/orders", "is not a URL"),
        ("PUBLIC_URL", "HTTPS://shop.example", "is not a URL of the form https://"),  # which nothing would count as TLS
        ("PUBLIC_URL", "https://[::1", "is not a URL"),
        ("AMQP_URL", "amqp://app@one//,amqp://app@two//", "is not a URL"),
        ("AMQP_URL", "amqp://app@[::1;amqp://app@two", "each node needs a URL"),
        ("REFUND_APPROVAL_LIMITS", f"USD={'9' * 5000}", "USD has no whole number"),
        ("REFUND_APPROVAL_LIMITS", "USD=5,USD=6", "has two values for one name"),
        ("INBOX_RETENTION_DAYS", "2147483647", "is not a whole number from 2 to 3650"),
    ],
)
def test_a_dangerous_value_ends_the_start(
    production: dict[str, str], settings_of: Any, name: str, value: str, why: str
) -> None:
    (problem, _) = settings_of(production | {name: value})
    assert problem.startswith(f"orders: {name}")
    assert why in problem


@pytest.mark.parametrize("value", ["postgres://[x,y", "2147483647"])
def test_no_value_of_any_variable_is_a_crash(production: dict[str, str], settings_of: Any, value: str) -> None:
    for name in documented().keys() - {"ENV_FILE"}:
        for problem in settings_of(production | {name: value}):
            assert problem.startswith("orders: ")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"API_AUTH": "open", "API_AUTH_OPEN_ACKNOWLEDGED": "true"},
        {"PAYMENT_GATEWAY": "fake", "FAKE_GATEWAY_ACKNOWLEDGED": "true"},
        {"PAYMENT_GATEWAY": "fake", "FAKE_GATEWAY_ACKNOWLEDGED": "true", "TEST_MODE": "true"},
        {"ADMIN_SECRET": "4fPq8ZrToDo7vWb3Yc9HsJ6gTdKx2LmN"},  # as random as any
        {"PUBLIC_URL": "http://localhost:8080"},
        {"PUBLIC_URL": "http://orders.localhost", "STRIPE_API_URL": "http://127.0.0.1:12111"},
        {"EMBEDDED": "1", "ADMIN_SECRET": "", "PUBLIC_URL": "", "PAYMENT_GATEWAY": "", "ALLOWED_HOSTS": "*"},
    ],
    ids=str,
)
def test_what_is_safe_or_intended_starts(production: dict[str, str], settings_of: Any, changes: dict[str, str]) -> None:
    assert settings_of(production | changes) == []


def test_a_database_with_a_direct_address_is_used_as_one_behind_pgbouncer(
    monkeypatch: pytest.MonkeyPatch, production: dict[str, str]
) -> None:
    """What PgBouncer in transaction mode cannot give is asked past it alone."""
    direct = {"DATABASE_URL_PROCESSING_DIRECT": "postgres://app@postgres:5433/stock"}
    monkeypatch.setattr(os, "environ", production | direct)
    path = str(PROJECT / "orders_project" / "settings.py")
    databases = runpy.run_path(path, run_name="orders_project.settings_anew")["DATABASES"]
    behind, past = databases["processing"], databases["processing"]["DIRECT"]
    assert behind["DISABLE_SERVER_SIDE_CURSORS"]
    assert "options" not in behind["OPTIONS"]
    assert (past["HOST"], past["PORT"], past["NAME"]) == ("postgres", 5433, "stock")
    assert databases["orders"]["OPTIONS"] == past["OPTIONS"] | {"prepare_threshold": 5}
    assert "prepare_threshold" not in behind["OPTIONS"]
    assert "DIRECT" not in databases["orders"]


@pytest.mark.parametrize(
    ("given", "default", "all_of_them"),
    [
        ({}, "USD", ("USD",)),
        ({"CURRENCY": "JPY"}, "JPY", ("JPY",)),
        ({"CURRENCIES": "EUR, USD"}, "EUR", ("EUR", "USD")),
        ({"CURRENCIES": "EUR,KWD", "CURRENCY": "KWD"}, "KWD", ("KWD", "EUR")),
        ({"CURRENCIES": "EUR", "CURRENCY": "USD"}, "USD", ("USD", "EUR")),
    ],
)
def test_the_first_currency_is_the_default(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], default: str, all_of_them: tuple[str, ...]
) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("CURRENCY", "CURRENCIES")}
    monkeypatch.setattr(os, "environ", kept | given | {"REFUND_APPROVAL_LIMITS": "JPY=150000, KWD=300"})
    settings = runpy.run_path(str(PROJECT / "orders_project" / "settings.py"), run_name="orders_project.settings_anew")
    assert (settings["CURRENCY"], settings["CURRENCIES"]) == (default, all_of_them)
    assert settings["REFUND_APPROVAL_LIMITS"] == {"JPY": 150_000, "KWD": 300}


@pytest.mark.parametrize(
    ("given", "sent_to", "consumed"),
    [
        ({}, 1, (0,)),
        ({"ORDERS_QUEUES": "3"}, 3, (0, 1, 2)),
        ({"ORDERS_QUEUES": "3", "WORKER_QUEUES": "2, 0, 2"}, 3, (2, 0)),
        ({"ORDERS_QUEUES": "3", "UPGRADING": "true"}, 1, (0, 1, 2)),  # workers of the release before consume one
    ],
)
def test_all_queues_are_consumed_and_sent_to_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], sent_to: int, consumed: tuple[int, ...]
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ) | given)
    settings = runpy.run_path(str(PROJECT / "orders_project" / "settings.py"), run_name="orders_project.settings_anew")
    assert (settings["OUTBOX_QUEUES"], settings["WORKER_QUEUES"]) == (sent_to, consumed)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("given", "each"),
    [
        ({}, 8),
        ({"ORDERS_QUEUES": "4"}, 2),
        ({"ORDERS_QUEUES": "4", "WORKER_QUEUES": "3"}, 8),
        ({"ORDERS_QUEUES": "64"}, 1),
    ],
)
def test_a_worker_of_several_queues_fetches_no_more_than_of_one(
    production: dict[str, str], given: dict[str, str], each: int
) -> None:
    done = run(
        production | given, "-c", "from orders_project.celery import app; print(app.conf.worker_prefetch_multiplier)"
    )
    assert done.stdout.split() == [str(each)], done.stderr


class TestWhatIsDeployed:
    """Every process of compose.yaml and of Kubernetes starts with what it is given there."""

    @pytest.mark.parametrize("overlays", [[], ["pgbouncer"], ["standby-region"]])
    def test_by_compose(self, settings_of: Any, overlays: list[str]) -> None:
        given = {name: value or secrets.token_hex(32) for name, value in compose.example().items()}
        services = compose.load(given, *overlays)["services"]
        ours = {name: service["environment"] for name, service in services.items() if compose.is_ours(service)}
        assert "payments-worker" in ours
        assert not [problem for environment in ours.values() for problem in settings_of(environment)]

    @pytest.mark.parametrize("overlay", ["dev", "prod", "prod with pgbouncer"])
    def test_by_kubernetes(self, settings_of: Any, overlay: str) -> None:
        overlay, _, component = overlay.partition(" with ")
        configs = {name: dict(one["data"]) for name, one in kubernetes.named("ConfigMap").items()}
        path = compose.DOCKER / "kubernetes" / "overlays" / overlay / "kustomization.yaml"
        for patch in yaml.safe_load(path.read_text())["patches"]:
            for change in yaml.safe_load(patch["patch"]) if patch["target"]["kind"] == "ConfigMap" else ():
                configs[patch["target"]["name"]][change["path"].removeprefix("/data/")] = change["value"]
        pods = {name: pod for name, pod in kubernetes.pods().items() if pod["containers"][0]["image"] == "orders"}
        if overlay == "prod":
            pods.pop("fake-gateway")
        problems: list[str] = []
        for name, pod in pods.items():
            (container,) = pod["containers"]
            environment: dict[str, str] = {}
            for source in container.get("envFrom", ()):
                environment |= configs[source["configMapRef"]["name"]]
            for variable in container["env"]:
                environment[variable["name"]] = variable.get("value") or _of_source(variable, configs)
            for key, source in kubernetes.past_pgbouncer(name).items() if component else ():
                environment[key] = _of_source({"name": key, "valueFrom": source}, configs)
            problems += [f"{name}: {problem}" for problem in settings_of(environment)]
        assert "payments-worker" in pods
        assert not problems


def _of_source(variable: dict[str, Any], configs: dict[str, dict[str, str]]) -> str:
    name, source = variable["name"], variable["valueFrom"]
    if "configMapKeyRef" in source:
        return configs[source["configMapKeyRef"]["name"]][source["configMapKeyRef"]["key"]]
    scheme = {"DATABASE": "postgres", "AMQP": "amqp", "REDIS": "redis"}.get(name.partition("_")[0])
    return f"{scheme}://user:password@{source['secretKeyRef']['key']}/name" if scheme else secrets.token_hex(32)


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Reads the settings anew in an environment, as a process does at its start; what that complains about."""

    def read(environment: dict[str, str]) -> list[str]:
        monkeypatch.setattr(os, "environ", dict(environment))
        with contextlib.suppress(SystemExit):
            runpy.run_path(str(PROJECT / "orders_project" / "settings.py"), run_name="orders_project.settings_anew")
        return capsys.readouterr().err.splitlines()

    return read


def test_a_standby_is_read_only_mirrors_its_database_and_is_not_migrated(
    production: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(PROJECT / "orders_project" / "settings.py")
    monkeypatch.setattr(os, "environ", production)
    without = runpy.run_path(path, run_name="orders_project.settings_anew")
    standby = {"DATABASE_URL_ORDERS_READ": "postgres://app@standby.example/orders", "SERVICES": "orders,payments"}
    monkeypatch.setattr(os, "environ", production | standby)
    found = runpy.run_path(path, run_name="orders_project.settings_anew")
    assert without["STANDBYS"] == {}
    assert found["STANDBYS"] == {"orders": "orders_read"}
    assert "orders_read" not in found["DATABASES_HERE"]
    there, own = found["DATABASES"]["orders_read"], found["DATABASES"]["orders"]
    assert there["HOST"] == "standby.example"
    assert there["TEST"] == {"MIRROR": "orders"}
    assert there["OPTIONS"]["options"] == f"{own['OPTIONS']['options']} -c default_transaction_read_only=on"
    assert there["OPTIONS"]["connect_timeout"] < own["OPTIONS"]["connect_timeout"]
    assert own == without["DATABASES"]["orders"]
    monkeypatch.setattr(os, "environ", production | standby | {"DATABASE_POOL": "8"})
    pooled = runpy.run_path(path, run_name="orders_project.settings_anew")["DATABASES"]
    assert [pooled[alias]["OPTIONS"]["pool"]["timeout"] for alias in ("orders", "orders_read")] == [10, 2]
    monkeypatch.setattr(os, "environ", production | standby | {"SERVICES": "payments"})
    assert runpy.run_path(path, run_name="orders_project.settings_anew")["STANDBYS"] == {}


@pytest.mark.processes
def test_a_start_says_all_that_is_wrong(production: dict[str, str]) -> None:
    wrong = {
        "PUBLIC_URL": "http://shop.example", "STRIPE_WEBHOOK_SECRET": "x", "STRIPE_API_URL": "http://stripe.example",
        "ADMIN_SECRET": "short", "ALLOWED_HOSTS": "*",
    }  # fmt: skip
    done = run(production | wrong, "manage.py", "check")
    assert done.returncode == 78
    assert {line.split()[1] for line in done.stderr.splitlines()} == wrong.keys() | {"see"}


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
