"""docker/compose.yaml, alone or with an overlay, read as docker compose reads it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[2]
DOCKER = PROJECT / "docker"
VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::([?-])([^}]*))?\})")


class NotSet(ValueError):
    """A required variable is not set."""


def load(variables: Mapping[str, str], *overlays: str) -> dict[str, Any]:
    """
    The file with its variables filled in.

    :param overlays: whose files are laid over it, such as pgbouncer for compose.pgbouncer.yaml
    :raises NotSet: naming the first one that is missing
    """
    whole: dict[str, Any] = {}
    for path in files(*overlays):
        _lay(filled(yaml.safe_load(path.read_text()), variables), over=whole)
    return whole


def files(*overlays: str) -> list[Path]:
    return [DOCKER / "compose.yaml", *(DOCKER / f"compose.{overlay}.yaml" for overlay in overlays)]


def _lay(what: dict[str, Any], *, over: dict[str, Any]) -> None:
    for key, value in what.items():
        if isinstance(value, dict) and isinstance(over.get(key), dict):
            over[key] = dict(over[key])  # anchors share it
            _lay(value, over=over[key])
        else:
            over[key] = value


def filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: filled(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, variables) for one in value]
    return VARIABLE.sub(lambda match: _value(match, variables), value) if isinstance(value, str) else value


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    name, kind, default = match.groups()
    if name is None:
        return "$"
    if variables.get(name):
        return variables[name]
    if kind != "-":
        raise NotSet(name)
    return str(default)


def example() -> dict[str, str]:
    """The variables of docker/.env.example with their values."""
    lines = (DOCKER / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def is_ours(service: Mapping[str, Any]) -> bool:
    """Whether a service runs our image."""
    return str(service["image"]).startswith("orders:")


def entrypoint() -> list[str]:
    """The entrypoint of our image."""
    found = re.search(r"^ENTRYPOINT (\[.*\])$", (DOCKER / "Dockerfile").read_text(), re.M)
    assert found is not None
    return list(json.loads(found[1]))
