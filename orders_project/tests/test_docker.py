"""The files in docker/ follow their schemas, pass linters and agree with each other. No container engine is needed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from orders_project.celery import SERVICES, WORK

from . import compose
from .compose import DOCKER, PROJECT
from .stack import WEBS

SECRET = re.compile(r"PASSWORD|SECRET|KEY|USER")


@pytest.fixture(scope="module")
def services() -> Any:
    return compose.load({name: value or "x" * 60 for name, value in compose.example().items()})["services"]


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
        assert set(re.findall(r"^FROM (\S+)", self.text, re.M)) == {"python:3.13-slim-bookworm"}
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


class TestCompose:
    @pytest.mark.processes
    def test_follows_the_compose_specification(self) -> None:
        schema = ("--builtin-schema", "vendor.compose-spec")
        run(sys.executable, "-m", "check_jsonschema", *schema, DOCKER / "compose.yaml")

    def test_every_secret_is_required_and_has_no_default(self) -> None:
        found = compose.VARIABLE.findall((DOCKER / "compose.yaml").read_text())
        insisted = {name for name, kind, _ in found if name and kind == "?"}
        optional = {name for name, kind, _ in found if name and kind == "-"}
        assert insisted <= set(compose.example())
        assert not {name for name in optional if SECRET.search(name)}
        assert {name: value for name, value in compose.example().items() if SECRET.search(name) and value} == {
            "RABBITMQ_USER": "orders"
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

    def test_our_processes_have_no_privileges(self, services: Any) -> None:
        for name, service in services.items():
            if compose.is_ours(service):
                assert service["read_only"], name
                assert service["cap_drop"] == ["ALL"], name
                assert service["security_opt"] == ["no-new-privileges:true"], name

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


def documents(*folders: Path) -> list[Any]:
    return [
        document
        for folder in folders
        for path in sorted(folder.glob("*.yaml"))
        if path.name != "kustomization.yaml"
        for document in yaml.safe_load_all(path.read_text())
    ]


BASE = documents(DOCKER / "kubernetes" / "base", DOCKER / "nginx")
DEV = documents(DOCKER / "kubernetes" / "overlays" / "dev")
BUILTIN = ("v1", "apps/v1", "batch/v1", "policy/v1", "networking.k8s.io/v1")
# What a person or a vault provides: docs/operations.md lists it.
GIVEN = {
    "orders": {"secret-key", "payment-webhook-secret", "admin-secret", "encryption-key"},
    "redis": {"url", "password"},
    "postgres-processing-orders-holding": {"uri", "username", "password"},
    "jwt-public": {"jwt-public.pem"},
    "jwt-private": {"jwt-private.pem"},
}


def named(kind: str) -> dict[str, Any]:
    return {document["metadata"]["name"]: document for document in BASE + DEV if document["kind"] == kind}


def pods() -> dict[str, Any]:
    """The specification of each pod, by the name of its controller."""
    return {
        name: one["spec"]["template"]["spec"] for kind in ("Deployment", "Job") for name, one in named(kind).items()
    }


def variables(name: str) -> dict[str, Any]:
    (container,) = pods()[name]["containers"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


class TestKubernetes:
    @pytest.mark.parametrize(
        "document",
        [document for document in BASE + DEV if document["apiVersion"] in BUILTIN],
        ids=lambda one: f"{one['kind']}-{one['metadata']['name']}",
    )
    def test_every_resource_of_kubernetes_follows_its_schema(self, document: Any) -> None:
        kubernetes_validate.validate(document, "1.33", strict=True)

    def test_only_operators_that_are_documented_are_needed(self) -> None:
        manual = (PROJECT / "docs" / "operations.md").read_text()
        for version in {document["apiVersion"] for document in BASE + DEV} - set(BUILTIN):
            assert f"`{version}`" in manual, version

    def test_every_secret_and_configuration_that_is_used_exists(self) -> None:
        secrets = {f"{name}-app": {"uri"} for name in named("Cluster")} | GIVEN
        secrets |= {f"{name}-default-user": {"connection_string"} for name in named("RabbitmqCluster")}
        configs = {name: set(one["data"]) for name, one in named("ConfigMap").items()}
        configs["gateway"] = {"default.conf.template"}
        for pod in pods().values():
            for container in pod["containers"]:
                for source in container.get("envFrom", ()):
                    assert source["configMapRef"]["name"] in configs
                for one in container["env"]:
                    source = one.get("valueFrom", {})
                    for kind, known in (("secretKeyRef", secrets), ("configMapKeyRef", configs)):
                        if kind in source:
                            assert source[kind]["key"] in known[source[kind]["name"]], one
            for volume in pod.get("volumes", ()):
                assert volume.get("secret", {}).get("secretName", "jwt-public") in secrets
                assert volume.get("configMap", {}).get("name", "common") in configs

    def test_every_secret_is_in_the_documentation(self) -> None:
        manual = (PROJECT / "docs" / "operations.md").read_text()
        for name, keys in GIVEN.items():
            assert all(f"`{word}`" in manual for word in (name, *keys)), name

    def test_every_name_refers_to_something(self) -> None:
        deployments, services = named("Deployment"), named("Service")
        for name, service in services.items():
            assert service["spec"]["selector"] == deployments[name]["spec"]["selector"]["matchLabels"]
            (container,) = pods()[name]["containers"]
            ports = {port["name"] for port in container["ports"]}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        for name, budget in named("PodDisruptionBudget").items():
            assert budget["spec"]["selector"] == deployments[name]["spec"]["selector"]
        scaled_by = set()
        for scaled in named("ScaledObject").values():
            (trigger,) = scaled["spec"]["triggers"]
            queue = trigger["metadata"]["queueName"]
            (worker,) = pods()[scaled["spec"]["scaleTargetRef"]["name"]]["containers"]
            assert worker["args"][worker["args"].index("-Q") + 1] == queue
            scaled_by.add(queue)
            assert trigger["authenticationRef"]["name"] in named("TriggerAuthentication")
        assert scaled_by == set(WORK)
        for policy in named("NetworkPolicy").values():
            for word in re.findall(r"'([a-z]+(?:-[a-z]+)+)'", str(policy["spec"]["ingress"])):
                assert word in {*pods(), *named("Cluster"), "cnpg-system"}, word
        (rule,) = named("Ingress")["orders"]["spec"]["rules"]
        assert {path["backend"]["service"]["name"] for path in rule["http"]["paths"]} <= set(services)
        services = {key: value for key, value in variables("gateway").items() if str(value).endswith(":8000")}
        assert {value.partition(".")[0] for value in services.values()} == set(WEBS)

    def test_processes_are_those_of_compose(self, services: Any) -> None:
        ours = {name for name, service in services.items() if compose.is_ours(service)}
        images = {name for name, pod in pods().items() if pod["containers"][0]["image"] == "orders"}
        assert images == ours
        for name in ours:
            (container,) = pods()[name]["containers"]
            command, there = services[name]["command"], services[name]["environment"]
            assert _same(container["args"]) == _same(command), name
            assert container.get("command") == services[name].get("entrypoint"), name
            here = variables(name)
            assert here.get("SERVICES") == there.get("SERVICES"), name
            assert _keys(here) == _keys(there), name

    def test_probes_check_what_the_process_has(self) -> None:
        for name, pod in pods().items():
            (container,) = pod["containers"]
            if name != "deploy":
                assert container["livenessProbe"], name
                assert container["resources"]["limits"]["memory"], name
            assert container["securityContext"]["readOnlyRootFilesystem"], name

    @pytest.mark.processes
    @pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
    @pytest.mark.parametrize("overlay", ["dev", "prod"])
    def test_the_overlays_can_be_built(self, overlay: str, tmp_path: Path) -> None:
        shutil.copytree(DOCKER, tmp_path / "docker")
        folder = tmp_path / "docker" / "kubernetes" / "overlays" / overlay
        (folder / "secrets").mkdir(exist_ok=True)
        for secret in ("orders.env", "redis.env", "orders-holding.env", "jwt-public.pem", "jwt-private.pem"):
            (folder / "secrets" / secret).write_text("")
        done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        built = list(yaml.safe_load_all(done.stdout))
        assert {document["metadata"].get("namespace") for document in built} == {
            "orders" if overlay == "prod" else "orders-dev"
        }
        images = {
            container["image"]
            for document in built
            if document["kind"] in ("Deployment", "Job")
            for container in document["spec"]["template"]["spec"]["containers"]
        }
        assert "orders" not in images
        assert not {image for image in images if ":" not in image}


def _keys(environment: Any) -> set[str]:
    """The databases and the secrets that a process has access to."""
    secret = {"ADMIN_SECRET", "ENCRYPTION_KEY", "PAYMENT_WEBHOOK_SECRET", "SECRET_KEY"}
    return {name for name in environment if name.startswith("DATABASE_URL") or name in secret}


def _same(command: list[str]) -> list[str]:
    """A command without its numbers of threads and processes."""
    return [word for word in command if not word.isdigit()]
