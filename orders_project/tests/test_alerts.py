"""The alerts, the dashboard and the operations manual know the same system."""

import json
import re
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml
from django_prometheus.middleware import Metrics

from common import lockout
from orders_project.grpc import calls
from orders_project.http import middleware
from orders_project.observability import metrics
from outbox.metrics import REGISTRY

from .prometheus import promtool

PROJECT = Path(__file__).resolve().parents[2]
PROMETHEUS = PROJECT / "docker" / "prometheus"
DASHBOARD = PROJECT / "docker" / "grafana" / "dashboards" / "orders.json"

RULES: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"][0]["rules"]
QUERIES: list[str] = [
    target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel.get("targets", [])
]
WORDS_OF_PROMQL = {
    "sum", "max", "min", "by", "rate", "increase", "histogram_quantile", "absent", "topk", "and", "le", "up", "time",
}  # fmt: skip


def shown() -> set[str]:
    """The names of all samples that `/metrics` can have."""
    assert calls.GRPC_SECONDS
    assert lockout.FAILURES
    assert middleware.POOL  # they count by being imported
    assert Metrics.get_instance()
    ours_and_djangos = (REGISTRY, prometheus_client.REGISTRY)
    counted = {name for each in ours_and_djangos for names in each._collector_to_names.values() for name in names}
    read = {name for reading in metrics.readings() for name in reading.gauges}
    return counted | read | {"orders_total", "outbox_pending", "database_up"}


def names_in(query: str) -> set[str]:
    """The metrics in a query."""
    without_labels = re.sub(r"\{[^}]*\}|\[[^]]*\]|\bby \([^)]*\)", "", query)
    return set(re.findall(r"[a-z_]{2,}", without_labels)) - WORDS_OF_PROMQL


@pytest.mark.parametrize("query", [*QUERIES, *(rule["expr"] for rule in RULES)])
def test_every_query_uses_metrics_that_exist(query: str) -> None:
    assert names_in(query) <= shown()


@pytest.mark.processes
def test_prometheus_accepts_its_configuration_and_its_rules() -> None:
    promtool("check", "config", "prometheus.yml", cwd=PROMETHEUS)
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "rules.yml", cwd=PROMETHEUS)


@pytest.mark.processes
def test_every_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", "rules.test.yml", cwd=PROMETHEUS)
    stories = {story["name"] for story in yaml.safe_load((PROMETHEUS / "rules.test.yml").read_text())["tests"]}
    assert stories == {f"{rule['alert']} {what}" for rule in RULES for what in ("fires", "stays calm")}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_alert_has_a_runbook(rule: dict[str, Any]) -> None:
    path, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (PROJECT / path).read_text(), re.MULTILINE)
    assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
