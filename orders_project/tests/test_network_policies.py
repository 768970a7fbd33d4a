"""What the policies in docker/kubernetes together allow: no more than the processes need, as their environments say."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from orders_project.celery import SERVICES

from .kubernetes import container_of, named, pods, variables
from .stack import WEBS

SERVERS = {
    "rabbitmq",
    *(
        f"{kind}-{name}"
        for kind in ("postgres", "pgbouncer")
        for name in ("default", "orders", "payments", "processing")
    ),
}


def labels() -> dict[str, dict[str, str]]:
    """The labels of the pods, those that the operators start included."""
    ours = {
        name: one["spec"]["template"]["metadata"]["labels"]
        for kind in ("Deployment", "Job")
        for name, one in named(kind).items()
    }
    theirs = {name: {"cnpg.io/cluster": name} for name in named("Cluster")}
    poolers = {
        name.replace("postgres", "pgbouncer"): own for name, own in theirs.items()
    }  # as its operator labels them
    return (
        ours
        | theirs
        | poolers
        | {"rabbitmq": {"app.kubernetes.io/name": "rabbitmq", "app.kubernetes.io/part-of": "rabbitmq"}}
    )


def _selects(selector: Any, found: dict[str, str]) -> bool:
    asked = selector.get("matchLabels", {}).items()
    among = selector.get("matchExpressions", ())
    assert all(one["operator"] == "In" for one in among)
    return asked <= found.items() and all(found.get(one["key"]) in one["values"] for one in among)


def rules_of(name: str, direction: str) -> list[Any]:
    """The rules of all policies for a pod."""
    return [
        rule
        for policy in named("NetworkPolicy").values()
        if _selects(policy["spec"]["podSelector"], labels()[name])
        for rule in policy["spec"].get(direction, ())
    ]


def _allows(rules: list[Any], peers: str, other: str, ports: set[Any]) -> bool:
    return any(
        (not rule.get("ports") or ports & {port["port"] for port in rule["ports"]})
        and (
            not rule.get(peers)
            or any(
                _selects(peer.get("podSelector", {"matchLabels": {"": ""}}), labels()[other]) for peer in rule[peers]
            )
        )
        for rule in rules
    )


def leads(source: str, target: str, port: int) -> bool:
    """Whether a pod may connect to another one; policies name the port of the target by its number."""
    return _allows(rules_of(source, "egress"), "to", target, {port})


def accepts(target: str, source: str, port: int) -> bool:
    """Whether a pod takes connections of another one, at a port by its name or number."""
    named_ports = (
        {one["name"] for one in container_of(pods()[target])["ports"] if one["containerPort"] == port}
        if (target in pods())
        else set()
    )
    return _allows(rules_of(target, "ingress"), "from", source, {port, *named_ports})


def _within(address: str, block: Any) -> bool:
    """Whether an address is in a block of a policy."""
    found = ip_address(address)
    inside = [ip_network(block["cidr"]), *map(ip_network, block["except"])]
    here, *excepted = (network.version == found.version and found in network for network in inside)
    return here and not any(excepted)


def _connections() -> list[tuple[str, str, int]]:
    """Who calls whom, by the environments of the processes."""
    found = [("gateway", web, 8000) for web in WEBS]
    found += [(name, "grpc", 50051) for name in pods() if "ORDER_SERVICE_GRPC" in variables(name)]
    found += [(name, "redis", 6379) for name in pods() if "REDIS_URL" in variables(name)]
    asking = [name for name in pods() if "FAKE_GATEWAY_URL" in variables(name) and name != "fake-gateway"]
    found += [("fake-gateway", "payments-web", 8000), *((name, "fake-gateway", 8900) for name in asking)]
    found += [(name, "rabbitmq", 5672) for name in pods() if "AMQP_URL" in variables(name)]
    found += [("deploy", "rabbitmq", 15672)]
    for database_name in ("default", *SERVICES):
        variable = "DATABASE_URL" if database_name == "default" else f"DATABASE_URL_{database_name.upper()}"
        found += [(name, f"postgres-{database_name}", 5432) for name in pods() if variable in variables(name)]
    return found


CONNECTIONS = _connections()
DATABASES = [one for one in CONNECTIONS if one[1].startswith("postgres-")]
POOLED = [(source, target.replace("postgres", "pgbouncer"), port) for source, target, port in DATABASES]
POOLED += [(target.replace("postgres", "pgbouncer"), target, port) for _, target, port in DATABASES]


class TestTheNetwork:
    def test_everything_is_refused_that_is_not_allowed(self) -> None:
        assert named("NetworkPolicy")["default-deny"]["spec"] == {
            "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
        }  # fmt: skip
        for name, policy in named("NetworkPolicy").items():
            assert policy["spec"]["policyTypes"], name
            for direction in ("ingress", "egress"):
                assert (direction in policy["spec"]) <= (direction.title() in policy["spec"]["policyTypes"]), name

    @pytest.mark.parametrize(("source", "target", "port"), CONNECTIONS + sorted(set(POOLED)))
    def test_what_is_needed_is_allowed_at_both_ends(self, source: str, target: str, port: int) -> None:
        assert leads(source, target, port), f"{source} may not call {target}"
        assert accepts(target, source, port), f"{target} does not take calls of {source}"

    @pytest.mark.parametrize("name", sorted(labels()))
    def test_a_pod_reaches_nothing_else(self, name: str) -> None:
        needed = {(target, port) for source, target, port in CONNECTIONS if source == name}
        everything = {(target, port) for _, target, port in CONNECTIONS}
        reached = {
            (target, port)
            for target, port in everything
            if target != name and leads(name, target, port) and accepts(target, name, port)
        }
        if name in SERVERS:
            return  # they belong to operators
        assert reached == needed

    @pytest.mark.parametrize(
        "address",
        ["10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "127.0.0.1", "100.64.0.1",
         "168.63.129.16", "224.0.0.1", "fd00::1", "fe80::1", "::1", "::ffff:10.0.0.1", "fec0::1"],
    )  # fmt: skip
    def test_no_process_gets_to_a_private_address_by_way_of_the_internet(self, address: str) -> None:
        for name in labels().keys() - SERVERS:
            for rule in rules_of(name, "egress"):
                for peer in rule.get("to", ()):
                    assert "ipBlock" not in peer or not _within(address, peer["ipBlock"]), name

    def test_only_those_who_call_strangers_get_to_the_internet(self) -> None:
        reaching = {
            name for name in labels() for rule in rules_of(name, "egress") for peer in rule.get("to", ())
            if "ipBlock" in peer and _within("93.184.216.34", peer["ipBlock"])
        }  # fmt: skip
        assert reaching == {"webhooks-worker", "payments-worker", "back-office"}
