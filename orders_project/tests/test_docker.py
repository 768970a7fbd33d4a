"""The files in docker/ follow their schemas, pass linters and agree with each other. No container engine is needed."""

import re
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from orders_project.celery import SERVICES
from orders_project.privileges import broker, database

from . import compose
from .compose import DOCKER, PROJECT
from .confinement import is_address, is_pinned, meant_for, shows_no_secret, user_of
from .stack import WEBS

SECRET = re.compile(r"PASSWORD|SECRET|KEY|USER")


WAYS: dict[str, tuple[str, ...]] = {
    "alone": (), "pgbouncer": ("pgbouncer",), "primary": ("primary-region",), "standby": ("standby-region",),
}  # fmt: skip
VARIABLES = {name: value or "x" * 60 for name, value in compose.example().items()}


@pytest.fixture(scope="module", params=list(WAYS.values()), ids=list(WAYS))
def whole(request: pytest.FixtureRequest) -> Any:
    """compose.yaml, alone and with each overlay."""
    return compose.load(VARIABLES, *request.param)


@pytest.fixture
def services(whole: Any) -> Any:
    return whole["services"]


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class TestTheImage:
    text = (DOCKER / "Dockerfile").read_text()

    @pytest.mark.processes
    def test_passes_hadolint(self) -> None:
        run(Path(sys.executable).parent / "hadolint", DOCKER / "Dockerfile")

    def test_has_all_packages_and_the_build_context_includes_them(self) -> None:
        copied = {words[1] for words in map(str.split, self.text.splitlines()) if words[:1] == ["COPY"]}
        here = {"manage.py", "requirements/base.txt", "outbox", "common", "orders_project", *SERVICES}
        assert copied - {"--from=build"} == here
        included = {
            line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().split() if line.startswith("!")
        }
        assert included == here
        assert all((PROJECT / path).exists() for path in here)

    def test_runs_without_privileges_from_pinned_and_hashed_parts(self) -> None:
        assert set(re.findall(r"^FROM (\S+)", self.text, re.M)) == {"python:3.13.15-slim-bookworm"}
        assert re.findall(r"^USER (\S+)", self.text, re.M) == ["10001:10001"]
        assert "--require-hashes" in self.text

    @pytest.mark.processes
    def test_makes_its_static_files_without_secrets_or_servers(self, tmp_path: Path) -> None:
        env = {"PATH": str(Path(sys.executable).parent), "DEBUG": "1", "HOME": str(tmp_path)}
        script = (
            "from django.conf import settings; import orders_project.settings as s, sys;"
            f"s.STATIC_ROOT = {str(tmp_path / 'static')!r}; sys.argv = ['manage.py', 'collectstatic', '--no-input'];"
            "import manage; manage.main()"
        )
        subprocess.run([sys.executable, "-c", script], env=env, cwd=PROJECT, check=True, capture_output=True)
        assert (tmp_path / "static" / "backoffice" / "backoffice.css").exists()


AS_ROOT = {"rabbitmq", *(f"postgres-{name}" for name in ("default", "orders", "payments", "processing"))}


# What holds for every service but those that are named.
COMPOSE_RULES: list[tuple[str, Callable[[Any], bool], set[str]]] = [
    ("gains no privileges", lambda one: one.get("security_opt") == ["no-new-privileges:true"], set()),
    ("has no capabilities", lambda one: one.get("cap_drop") == ["ALL"], AS_ROOT),  # they change their user themselves
    ("writes to volumes only", lambda one: one.get("read_only"), {*AS_ROOT, "prometheus", "grafana", "jaeger"}),
    (
        "listens on loopback",
        lambda one: all(port.startswith("127.0.0.1:") for port in one.get("ports", ())),
        set(),
    ),
    ("shows no secret in its arguments", lambda one: shows_no_secret(one.get("command", [])), set()),
    ("has a supported image of a named release", lambda one: is_pinned(one["image"]), set()),
    ("mounts the engine's socket never", lambda one: "docker.sock" not in str(one.get("volumes")), set()),
]


def _parts(text: str) -> dict[str, str]:
    """The text of each service in compose.yaml."""
    found = re.split(r"(?m)^  ([a-z][a-z-]*):$", text[text.index("services:") : text.index("\nnetworks:")])
    return dict(zip(found[1::2], found[2::2], strict=True))


def _database(owner: str) -> str:
    return owner.removesuffix("_DB_PASSWORD").lower().replace("back_office", "default")


class TestCompose:
    @pytest.mark.processes
    def test_follows_the_compose_specification(self) -> None:
        schema = ("--builtin-schema", "vendor.compose-spec")
        run(sys.executable, "-m", "check_jsonschema", *schema, *DOCKER.glob("compose*.yaml"))

    def test_every_secret_is_required_and_has_no_default(self) -> None:
        found = compose.VARIABLE.findall("".join(path.read_text() for path in DOCKER.glob("compose*.yaml")))
        insisted = {name for name, kind, _ in found if name and kind == "?"}
        optional = {name for name, kind, _ in found if name and kind == "-"}
        assert insisted <= set(compose.example())
        assert not {name for name in optional if SECRET.search(name)}
        assert {name: value for name, value in compose.example().items() if SECRET.search(name) and value} == {
            "RABBITMQ_USER": "admin"
        }

    @pytest.mark.parametrize("missing", ["SECRET_KEY", "ORDERS_DB_PASSWORD", "RABBITMQ_PASSWORD"])
    def test_nothing_starts_without_a_secret(self, missing: str) -> None:
        given = dict.fromkeys(compose.example(), "x")
        del given[missing]
        with pytest.raises(compose.NotSet, match=missing):
            compose.load(given)

    def test_every_service_is_pinned_and_has_a_health_check(self, services: Any) -> None:
        for name, service in services.items():
            assert name == "deploy" or service["healthcheck"]["test"], name
            assert compose.is_ours(service) or re.search(r":v?\d", service["image"]), name

    @pytest.mark.parametrize("rule", COMPOSE_RULES, ids=lambda rule: rule[0])
    def test_every_service_is_confined(self, services: Any, rule: Any) -> None:
        _, holds, exempt = rule
        assert {name for name, service in services.items() if name not in exempt and not holds(service)} == set()

    def test_every_process_has_the_role_and_the_user_that_are_meant_for_it(self, services: Any) -> None:
        for name, service in services.items():
            urls = [urlsplit(value) for key, value in service.get("environment", {}).items() if is_address(key)]
            if compose.is_ours(service) and name != "deploy":
                assert {user_of(url) for url in urls} <= meant_for(name), name
                assert {url.username for url in urls if url.scheme == "amqp"}, name

    def test_deploy_alone_has_the_owners_and_gives_everybody_else_a_password(self, services: Any) -> None:
        given = services["deploy"]["environment"]
        broker_users, roles = (
            {pair.partition("=")[0] for pair in given[name].split(",")}
            for name in ("BROKER_PASSWORDS", "DATABASE_PASSWORDS")
        )
        assert broker_users == {user.name for user in broker.USERS}
        assert roles == {role.name for role in database.ROLES}
        text = (DOCKER / "compose.yaml").read_text()
        owners = {"BACK_OFFICE_DB_PASSWORD", *(f"{service.upper()}_DB_PASSWORD" for service in SERVICES)}
        for owner in owners | {"RABBITMQ_PASSWORD"}:
            holders = {name for name, part in _parts(text).items() if owner in part}
            assert holders == {"deploy", f"postgres-{_database(owner)}" if owner in owners else "rabbitmq"}, owner

    def test_the_gateway_alone_is_trusted(self, whole: Any, services: Any) -> None:
        address = services["gateway"]["networks"]["default"]["ipv4_address"]
        (network,) = whole["networks"]["default"]["ipam"]["config"]
        assert ip_address(address) not in ip_network(network["ip_range"]), "another container could get its address"
        for web in WEBS:
            assert services[web]["environment"]["TRUSTED_PROXIES"] == f"{address}/32"

    def test_a_database_is_in_a_network_with_those_alone_who_have_credentials_of_it(
        self, whole: Any, services: Any
    ) -> None:
        for name, service in services.items():
            urls = [urlsplit(value) for key, value in service.get("environment", {}).items() if is_address(key)]
            own = {f"{url.path[1:]}-data" for url in urls if url.scheme == "postgres"}
            if name.startswith(("postgres-", "pgbouncer-")):
                assert set(service["networks"]) - {"between-regions"} == {f"{name.partition('-')[2]}-data"}
                assert "between-regions" not in service["networks"] or name.startswith("postgres-")
                assert whole["networks"][service["networks"][0]] == {"internal": True}
            elif service.get("network_mode") != "none":
                assert set(service.get("networks", ["default"])) == {"default", *own}, name

    def test_pgbouncer_is_before_every_database_of_a_process_and_has_a_way_past_it(self) -> None:
        before, after = (compose.load(VARIABLES, *overlays)["services"] for overlays in ((), ("pgbouncer",)))
        for name, service in before.items():
            given = {key: urlsplit(value) for key, value in service.get("environment", {}).items() if is_address(key)}
            now = after[name].get("environment", {})
            for key, url in given.items():
                if url.scheme != "postgres" or name == "deploy":
                    assert now[key] == url.geturl(), name
                    continue
                assert now.pop(f"{key}_DIRECT") == url.geturl(), name
                pooler = after[f"pgbouncer-{url.path[1:]}"]["environment"]
                assert pooler["SERVER"] == f"{url.hostname}:{url.port}"
                assert f"{url.username}:{url.password}" in pooler["ROLES"].split()
                assert now[key] == url.geturl().replace("postgres-", "pgbouncer-").replace("5432", "6432"), name
            assert now.keys() == service.get("environment", {}).keys(), name

    def test_a_region_that_waits_follows_every_database_of_the_other_and_runs_no_process(self) -> None:
        primary, standby = (compose.load(VARIABLES, f"{role}-region")["services"] for role in ("primary", "standby"))
        elsewhere = standby["deploy"]["environment"]["OTHER_REGION_DATABASE_URLS"].split(",")
        owned = {
            key: value for key, value in primary["deploy"]["environment"].items() if key.startswith("DATABASE_URL")
        }
        for url, there in zip(map(urlsplit, owned.values()), map(urlsplit, elsewhere), strict=True):
            assert there._replace(netloc="") == url._replace(netloc="")
            assert (there.username, there.password) == (url.username, url.password)
            address, port, inner = primary[str(url.hostname)]["ports"][0].split(":")
            assert (address, int(inner)) == (VARIABLES["REPLICATION_BIND"], url.port)
            assert standby[str(url.hostname)]["environment"]["PRIMARY"] == there.netloc.rpartition("@")[2]
            assert there.port == int(port)
            command = primary[str(url.hostname)]["command"]
            assert set(standby[str(url.hostname)]["command"]) < set(command)
        waiting = {name for name, service in standby.items() if "profiles" not in service}
        assert waiting == {
            *(name for name in primary if name.startswith("postgres-")),
            "rabbitmq", "redis", "prometheus", "grafana", "jaeger",
        }  # fmt: skip

    @pytest.mark.processes
    def test_pgbouncer_says_in_a_line_what_it_is_not_given(self) -> None:
        done = subprocess.run(
            ["/bin/sh", DOCKER / "pgbouncer" / "start.sh"],
            env={},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode
        assert "SERVER" in done.stderr
        assert len(done.stderr.splitlines()) == 1

    def test_every_database_is_archived_and_backed_up_by_whom_no_network_reaches(self, services: Any) -> None:
        for name in ("default", *SERVICES):
            server, backup = services[f"postgres-{name}"], services[f"backup-{name}"]
            folder = f"{compose.example()['BACKUPS']}/{name}:/backups"
            assert folder in server["volumes"]
            assert folder in backup["volumes"]
            assert {"-carchive_mode=on", "-cwal_compression=on", "-crandom_page_cost=1.1"} <= {*server["command"]}
            assert backup["network_mode"] == "none"
            assert backup["image"] == server["image"]
            assert backup["environment"]["PGUSER"] == server["environment"]["POSTGRES_USER"]

    def test_keys_are_for_their_user_alone(self, services: Any) -> None:
        assert "chmod 400" in (DOCKER / ".env.example").read_text()
        for service in services.values():
            for secret in service.get("secrets", ()):
                assert (secret["uid"], secret["mode"]) == ("10001", 0o400), secret

    def test_every_mounted_file_exists(self, services: Any) -> None:
        mounted = {
            volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())
        }  # fmt: skip
        for path in mounted:
            assert not path.startswith(".") or (DOCKER / path).exists(), path

    def test_prometheus_scrapes_every_process_with_metrics(self, services: Any) -> None:
        jobs = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
        targets = {target for job in jobs for static in job["static_configs"] for target in static["targets"]}
        counting = {name for name, service in services.items() if "METRICS_PORT" in service.get("environment", ())}
        assert targets == {f"{web}:8000" for web in WEBS} | {f"{name}:9100" for name in counting}
