"""A second region in Kubernetes: what the overlay `standby` makes of it, and the component `primary-region`."""

import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from .compose import PROJECT
from .kubernetes import BUILTIN, built, container_of, named

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here"),
]
Documents = dict[str, dict[str, Any]]


def by_kind(overlay: str, scratch: Path) -> dict[str, Documents]:
    found: dict[str, Documents] = {}
    for document in yaml.safe_load_all(built(overlay, scratch)):
        found.setdefault(document["kind"], {})[document["metadata"]["name"]] = document
    return found


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Documents]:
    return by_kind("prod with primary-region", tmp_path_factory.mktemp("primary"))


@pytest.fixture(scope="module")
def standby(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Documents]:
    return by_kind("standby", tmp_path_factory.mktemp("standby"))


def test_every_resource_of_kubernetes_follows_its_schema(
    primary: dict[str, Documents], standby: dict[str, Documents]
) -> None:
    for documents in [*primary.values(), *standby.values()]:
        for document in documents.values():
            if document["apiVersion"] in BUILTIN:
                kubernetes_validate.validate(document, "1.33", strict=True)


def test_no_process_runs_until_one_job_takes_over(standby: dict[str, Documents]) -> None:
    assert {one["spec"]["replicas"] for one in standby["Deployment"].values()} == {0}
    paused = {
        one["metadata"]["annotations"]["autoscaling.keda.sh/paused-replicas"]
        for one in standby["ScaledObject"].values()
    }
    assert paused == {"0"}
    deploy = standby["Job"]["deploy"]["spec"]
    assert deploy["suspend"] is True
    container = container_of(deploy["template"]["spec"])
    assert "region promote" in container["args"][-1]
    assert "OTHER_REGION_DATABASE_URLS" in {one["name"] for one in container["env"]}


def test_every_database_follows_that_of_the_first_region(
    primary: dict[str, Documents], standby: dict[str, Documents]
) -> None:
    first, second = primary["Cluster"], standby["Cluster"]
    assert set(first) == set(second) == set(named("Cluster"))
    for name, cluster in second.items():
        spec, there = cluster["spec"], first[name]["spec"]
        source = spec["bootstrap"].pop("pg_basebackup")
        assert spec["bootstrap"] == {}
        assert {key: source[key] for key in ("database", "owner")} == there["bootstrap"]["initdb"]
        assert source["secret"] == {"name": f"{name}-app"}
        (elsewhere,) = spec["externalClusters"]
        assert spec["replica"] == {"enabled": True, "source": elsewhere["name"]}
        assert source["source"] == elsewhere["name"]
        assert elsewhere["connectionParameters"]["sslmode"] == "verify-full"
        assert there["certificates"]["serverAltDNSNames"] == [elsewhere["connectionParameters"]["host"]]
        (service,) = there["managed"]["services"]["additional"]
        assert service["selectorType"] == "rw"
        archive = elsewhere["plugin"]["parameters"]
        assert archive["serverName"] == name
        own, theirs = (
            standby["ObjectStore"][store]["spec"]["configuration"]["destinationPath"]
            for store in ("backups", archive["barmanObjectName"])
        )
        assert theirs == primary["ObjectStore"]["backups"]["spec"]["configuration"]["destinationPath"]
        assert own != theirs


def test_the_page_names_every_secret_that_comes_from_the_first_region(standby: dict[str, Documents]) -> None:
    page = (PROJECT / "docs" / "region.md").read_text()
    for name, cluster in standby["Cluster"].items():
        (elsewhere,) = cluster["spec"]["externalClusters"]
        for key in ("sslCert", "sslKey", "sslRootCert"):
            assert f"`{elsewhere[key]['name']}`" in page
            assert f"`{elsewhere[key]['key']}`" in page
        assert f"`{name}-app`" in page
    for name in ("primary-region", "database-urls", "backups-of-primary-region"):
        assert f"`{name}`" in page
