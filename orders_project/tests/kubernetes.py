"""The manifests in docker/kubernetes: the base with the gateway, and what the overlays add."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from orders_project.privileges import broker, database

from .compose import DOCKER


def documents(*folders: Path) -> list[Any]:
    return [
        document
        for folder in folders
        for path in sorted(folder.glob("*.yaml"))
        if path.name != "kustomization.yaml"
        for document in yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader)  # each parallel worker reads them
    ]


BASE = documents(DOCKER / "kubernetes" / "base", DOCKER / "nginx")
DEV = documents(DOCKER / "kubernetes" / "overlays" / "dev")
PROD = documents(DOCKER / "kubernetes" / "overlays" / "prod")
PGBOUNCER = DOCKER / "kubernetes" / "components" / "pgbouncer"
POOLED = documents(PGBOUNCER)
BUILTIN = ("v1", "apps/v1", "batch/v1", "policy/v1", "networking.k8s.io/v1")
# What a person or a vault provides: docs/operations.md lists it.
GIVEN = {
    "orders": {"secret-key", "payment-webhook-secret", "admin-secret", "encryption-key"},
    "stripe": {"api-key", "webhook-secret"},
    "redis": {"url", "password"},
    "rabbitmq-users": {f"{user.name.replace('_', '-')}-{key}" for user in broker.USERS for key in ("url", "password")},
    **{f"role-{role.name.replace('_', '-')}": {"uri", "direct-uri", "username", "password"} for role in database.ROLES},
    "jwt-public": {"jwt-public.pem"},
    "jwt-private": {"jwt-private.pem"},
    "backups": {"access-key-id", "secret-access-key"},
}


def built(overlay: str, scratch: Path) -> str:
    """
    What kubectl makes of an overlay.

    :param overlay: its name; `prod with pgbouncer` adds a component
    """
    overlay, _, component = overlay.partition(" with ")
    shutil.copytree(DOCKER, scratch / "docker")
    folder = scratch / "docker" / "kubernetes" / "overlays" / overlay
    (folder / "secrets").mkdir(exist_ok=True)
    for secret in re.findall(r"secrets/([\w.-]+)", (folder / "kustomization.yaml").read_text()):
        (folder / "secrets" / secret).write_text("")
    if component:
        with (folder / "kustomization.yaml").open("a") as kustomization:
            kustomization.write(f"components: [../../components/{component}]\n")
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


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


def changes(kustomization: Path, kind: str, name: str) -> list[Any]:
    """The operations of the patches in a folder that concern this resource."""
    return [
        change
        for patch in yaml.safe_load((kustomization / "kustomization.yaml").read_text())["patches"]
        if patch["target"]["kind"] == kind and re.fullmatch(patch["target"].get("name", ".*"), name)
        for change in yaml.safe_load(patch["patch"])
    ]


def past_pgbouncer(name: str) -> dict[str, Any]:
    """What the component `pgbouncer` adds to the environment of a process."""
    added = changes(PGBOUNCER, "Deployment", name)
    assert all((one["op"], one["path"]) == ("add", "/spec/template/spec/containers/0/env/-") for one in added)
    return {one["value"]["name"]: one["value"]["valueFrom"] for one in added}


def container_of(pod: Any) -> Any:
    (container,) = pod["containers"]
    return container
