"""New connections cost others, so workers do not make all of theirs at the same time."""

from typing import Any

import pytest
from django.conf import settings
from django.db import connections

from orders_project import celery_signals


def age_in_a_child(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """How long a child of a worker keeps its connection to each database."""
    pooled: dict[str, dict[str, Any]] = {
        alias: database | {"OPTIONS": {**database.get("OPTIONS", {}), "pool": {"min_size": 0}}}
        for alias, database in connections.settings.items()
    }
    with monkeypatch.context() as patch:
        patch.setattr(connections, "settings", pooled)
        celery_signals.on_child_start()
    assert not any("pool" in database["OPTIONS"] for database in pooled.values())
    return {alias: database["CONN_MAX_AGE"] for alias, database in pooled.items()}


def test_children_of_a_worker_end_their_connections_at_different_times(monkeypatch: pytest.MonkeyPatch) -> None:
    children = [age_in_a_child(monkeypatch) for _ in range(4)]
    ages = sorted(age for child in children for age in child.values())
    assert ages[0] >= settings.CHILD_CONNECTION_AGE / 2
    assert ages[-1] <= settings.CHILD_CONNECTION_AGE
    assert len(set(ages)) == len(ages)
