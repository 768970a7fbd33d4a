"""The manifests in docker/kubernetes follow their schemas, are confined, and agree with each other and with compose."""

import re
import shutil
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from orders_project.celery import WORK
from orders_project.privileges import database

from . import compose
from .compose import DOCKER, PROJECT
from .confinement import is_address, is_pinned, meant_for, shows_no_secret
from .kubernetes import (
    BASE,
    BUILTIN,
    DEV,
    GIVEN,
    PGBOUNCER,
    POOLED,
    PROD,
    built,
    changes,
    container_of,
    named,
    past_pgbouncer,
    pods,
    variables,
)
from .stack import WEBS


@pytest.fixture(scope="module")
def services() -> Any:
    return compose.load({name: value or "x" * 60 for name, value in compose.example().items()})["services"]


NAMESPACES = {
    "cnpg-system",
    "rabbitmq-system",
    "ingress-nginx",
    "kube-system",
    "kube-dns",
    "matchLabels",
    "podSelector",
}

POD_RULES: list[tuple[str, Callable[[Any], bool]]] = [
    ("gets no token of Kubernetes", lambda pod: pod["automountServiceAccountToken"] is False),
    ("runs as a user", lambda pod: pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0),
    ("is filtered", lambda pod: pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}),
    (
        "has no privileges",
        lambda pod: (
            container_of(pod)["securityContext"]
            == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        ),
    ),
    ("shares nothing with its node", lambda pod: not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}),
    ("mounts nothing of its node", lambda pod: "hostPath" not in str(pod.get("volumes"))),
    ("has a supported image of a named release", lambda pod: is_pinned(container_of(pod)["image"])),
    (
        "shows no secret in its arguments",
        lambda pod: (
            shows_no_secret([*container_of(pod).get("command", []), *container_of(pod).get("args", [])])
            and "$(" not in str(container_of(pod).get("args"))
        ),
    ),
    (
        "keeps secrets from other users",
        lambda pod: all(
            volume["secret"].get("defaultMode", 0o644) & 0o007 == 0
            for volume in pod.get("volumes", ())
            if "secret" in volume
        ),
    ),
    ("takes a bounded amount of memory", lambda pod: container_of(pod)["resources"]["limits"]["memory"]),
]


class TestKubernetes:
    @pytest.mark.parametrize(
        "document",
        [document for document in BASE + DEV + POOLED if document["apiVersion"] in BUILTIN],
        ids=lambda one: f"{one['kind']}-{one['metadata']['name']}",
    )
    def test_every_resource_of_kubernetes_follows_its_schema(self, document: Any) -> None:
        kubernetes_validate.validate(document, "1.33", strict=True)

    def test_only_operators_that_are_documented_are_needed(self) -> None:
        manual = (PROJECT / "docs" / "operations.md").read_text()
        for version in {document["apiVersion"] for document in BASE + DEV + PROD + POOLED} - set(BUILTIN):
            assert f"`{version}`" in manual, version

    def test_every_secret_and_configuration_that_is_used_exists(self) -> None:
        secrets = {f"{name}-app": {"uri"} for name in named("Cluster")} | GIVEN
        secrets |= {
            f"{name}-default-user": {"connection_string", "username", "password"} for name in named("RabbitmqCluster")
        }
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
            spec = {key: policy["spec"].get(key) for key in ("podSelector", "ingress", "egress")}
            for word in re.findall(r"'([a-z]+(?:-[a-z]+)+)'", str(spec)):
                assert word in {*pods(), *named("Cluster"), *NAMESPACES}, word
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

    @pytest.mark.parametrize("rule", POD_RULES, ids=lambda rule: rule[0])
    def test_every_pod_is_confined(self, rule: Any) -> None:
        _, holds = rule
        assert {name for name, pod in pods().items() if not holds(pod)} == set()

    def test_every_process_has_the_role_and_the_user_that_are_meant_for_it(self) -> None:
        for name in pods().keys() - {"deploy", "gateway", "redis"}:
            used = {key: one["secretKeyRef"] for key, one in variables(name).items() if is_address(key)}
            allowed = {(f"role-{user}", "uri") for _, user in meant_for(name)} | {
                ("rabbitmq-users", f"{user}-url") for server, user in meant_for(name) if server == "broker"
            }
            allowed = {(secret.replace("_", "-"), key.replace("_", "-")) for secret, key in allowed}
            assert {(one["name"], one["key"]) for one in used.values()} <= allowed, name

    def test_every_role_is_made_with_its_password_and_owns_nothing(self) -> None:
        for role in database.ROLES:
            (made,) = [
                one
                for one in named("Cluster")[f"postgres-{role.database}"]["spec"]["managed"]["roles"]
                if one["name"] == role.name
            ]
            assert made["passwordSecret"]["name"] == f"role-{role.name.replace('_', '-')}"
            assert not made.keys() & {"superuser", "createdb", "createrole", "inRoles"}

    def test_every_database_is_archived_and_backed_up_in_production(self) -> None:
        made = {(one["kind"], one["metadata"]["name"]): one["spec"] for one in PROD}
        scheduled = {spec["cluster"]["name"] for (kind, _), spec in made.items() if kind == "ScheduledBackup"}
        assert scheduled == set(named("Cluster"))
        overlay = yaml.safe_load((DOCKER / "kubernetes/overlays/prod/kustomization.yaml").read_text())
        (patch,) = [one for one in overlay["patches"] if one["target"]["kind"] == "Cluster"]
        assert all(re.fullmatch(patch["target"]["name"], name) for name in named("Cluster"))
        (plugins,) = [one["value"] for one in yaml.safe_load(patch["patch"]) if one["path"] == "/spec/plugins"]
        (archiver,) = plugins
        assert archiver["isWALArchiver"] is True
        store = made["ObjectStore", archiver["parameters"]["barmanObjectName"]]
        keys = store["configuration"]["s3Credentials"].values()
        assert {(key["name"], key["key"]) for key in keys} == {("backups", key) for key in GIVEN["backups"]}
        for (kind, _), spec in made.items():
            if kind == "ScheduledBackup":
                assert spec["pluginConfiguration"]["name"] == archiver["name"]
                assert len(spec["schedule"].split()) == 6

    def test_no_standby_takes_over_that_may_lack_what_was_committed(self) -> None:
        for cluster in named("Cluster").values():
            synchronous = cluster["spec"]["postgresql"]["synchronous"]
            assert synchronous == {"method": "any", "number": 1, "failoverQuorum": True}
            assert cluster["spec"]["instances"] > synchronous["number"] + 1  # one may be lost, and commits go on

    def test_pgbouncer_is_before_every_database_as_in_compose(self) -> None:
        poolers = {one["metadata"]["name"]: one["spec"] for one in POOLED if one["kind"] == "Pooler"}
        assert {spec["cluster"]["name"] for spec in poolers.values()} == set(named("Cluster"))
        assert set(poolers) == {cluster.replace("postgres", "pgbouncer") for cluster in named("Cluster")}
        settings = re.findall(r"^(\w+) = (\S+)$", (DOCKER / "pgbouncer" / "pgbouncer.ini").read_text(), re.M)
        of_the_operator = {
            "listen_addr",
            "listen_port",
            "auth_type",
            "auth_file",
            "log_connections",
            "log_disconnections",
        }
        for name in poolers:
            spec = {one["path"].removeprefix("/spec/"): one["value"] for one in changes(PGBOUNCER, "Pooler", name)}
            asked = {"pool_mode": spec["pgbouncer"]["poolMode"], **spec["pgbouncer"]["parameters"]}
            assert asked == {key: value for key, value in settings if key not in of_the_operator}
            overlay = compose.load(dict.fromkeys(compose.example(), "x"), "pgbouncer")["services"]
            assert spec["pgbouncer"]["image"] == overlay[name]["image"]
            assert spec["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
        budgets = [one for one in POOLED if one["kind"] == "PodDisruptionBudget"]
        assert {one["spec"]["selector"]["matchLabels"]["cnpg.io/poolerName"] for one in budgets} == set(poolers)

    def test_every_process_has_a_way_past_pgbouncer_to_each_of_its_databases(self) -> None:
        for name in named("Deployment"):
            through = {key: one for key, one in variables(name).items() if key.startswith("DATABASE_URL")}
            past = {
                f"{key}_DIRECT": {"secretKeyRef": one["secretKeyRef"] | {"key": "direct-uri"}}
                for key, one in through.items()
            }
            assert past_pgbouncer(name) == past, name
        assert not changes(PGBOUNCER, "Job", "deploy")

    def test_every_image_of_a_server_is_of_one_release(self) -> None:
        images = [one["spec"]["image"] for one in named("RabbitmqCluster").values()]
        images += [one["spec"]["imageName"] for one in named("Cluster").values()]
        assert all(map(is_pinned, images))

    def test_no_proxy_network_is_wide(self) -> None:
        networks = [
            named("ConfigMap")["endpoints"]["data"]["TRUSTED_PROXIES"], variables("gateway")["TRUSTED_PROXY"],
        ]  # fmt: skip
        assert all(ip_network(network).prefixlen >= 16 for network in networks)

    def test_the_operators_credentials_are_for_deploy_alone(self) -> None:
        for name, pod in pods().items():
            for secret in ("rabbitmq-default-user", *(f"{cluster}-app" for cluster in named("Cluster"))):
                assert name == "deploy" or f"'{secret}'" not in str(pod), name
        for authentication in named("TriggerAuthentication").values():
            assert "default-user" not in str(authentication)

    @pytest.mark.processes
    @pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
    @pytest.mark.parametrize("overlay", ["dev", "prod", "standby", "prod with pgbouncer", "prod with primary-region"])
    def test_the_overlays_can_be_built(self, overlay: str, tmp_path: Path) -> None:
        said = built(overlay, tmp_path)
        documents = list(yaml.safe_load_all(said))
        assert {document["metadata"].get("namespace") for document in documents} == {
            "orders-dev" if overlay == "dev" else "orders"
        }
        images = {
            container["image"]
            for document in documents
            if document["kind"] in ("Deployment", "Job")
            for container in document["spec"]["template"]["spec"]["containers"]
        }
        assert "orders" not in images
        assert not {image for image in images if ":" not in image}
        assert ("DATABASE_URL_ORDERS_DIRECT" in said) == overlay.endswith("pgbouncer")


def _keys(environment: Any) -> set[str]:
    """The databases and the secrets that a process has access to."""
    secret = {"ADMIN_SECRET", "PAYMENT_WEBHOOK_SECRET", "SECRET_KEY"}
    return {name for name in environment if name.startswith("DATABASE_URL") or name in secret}


def _same(command: list[str]) -> list[str]:
    """A command without its numbers of threads and processes."""
    return [word for word in command if not word.isdigit()]
