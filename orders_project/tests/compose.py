"""docker/compose.yaml, read as docker compose reads it."""

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


def load(variables: Mapping[str, str]) -> dict[str, Any]:
    """
    The file with its variables filled in.

    :raises NotSet: naming the first one that is missing
    """
    return filled(yaml.safe_load((DOCKER / "compose.yaml").read_text()), variables)


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
