"""
What the API says of itself is true: generated requests, right and wrong ones, alone and in a row, to every endpoint.

A few of each, always the same, are part of every run (efforts.py says how many); `make fuzz` takes as many at random as
EXAMPLES says.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from django.db import connections
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.generation import GenerationMode

from common.principal import SCOPES
from orders_project.tests import efforts
from orders_project.tests.callers import bearer, new_key
from orders_project.wsgi import application

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "0"))  # of each operation, and chains of them
PHASES = ("examples", "coverage", "fuzzing", "stateful")
FOR_EVER = 2**31
# What JSON Schema has no words for: it can't count decimals exactly, and takes 3.0 for a whole number.
UNDESCRIBED = re.compile(
    r"This is not a URL\.|There is no such event\..*|An amount in USD has at most 2 decimals\.|"
    r"An integer is required\.|Ordered already in items.*"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(900 + 30 * (EXAMPLES or efforts.EFFORT.requests)),
]


@pytest.fixture(autouse=True)
def every_name_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which names of hosts have an address, and which one, is described by nobody."""
    monkeypatch.setattr("orders.outbound_http.check", lambda url: None)


@schemathesis.check
def what_is_described_is_understood(context: Any, response: Any, case: Any) -> None:
    """A body that the description allows may be refused as things stand, but not for what it is."""
    generated = getattr(case.meta, "generation", None)
    if not case.operation.body or generated is None or generated.mode is not GenerationMode.POSITIVE:
        return
    if response.status_code != 400:
        return
    problem = response.json()
    errors = problem["errors"] if problem["code"] == "invalid" else {}
    unheard_of = [f"{name}: {each}" for name in errors for each in errors[name] if not UNDESCRIBED.fullmatch(each)]
    assert not unheard_of


CONFIGURATION: dict[str, Any] = {
    "generation": {"max-examples": EXAMPLES or efforts.EFFORT.requests, "deterministic": not EXAMPLES},
    "continue-on-failure": True,
    "workers": 1,
    # What may be ordered and where a page goes on is not in the description alone: see the check above.
    "checks": {"positive_data_acceptance": {"enabled": False}},
}


def keeps_its_word(headers: dict[str, str], phases: Collection[str] = PHASES) -> Counter[str]:
    """Run these phases, and return how many requests each of them made."""
    enabled = {phase: {"enabled": phase in phases} for phase in PHASES}
    config = SchemathesisConfig.from_dict(CONFIGURATION | {"phases": enabled})
    schema = schemathesis.openapi.from_wsgi("/schema?format=json", application, config=config)
    schema.config.update(headers=headers)
    made: Counter[str] = Counter()
    broken: list[str] = []
    for event in from_schema(schema).execute():
        match event:
            case events.ScenarioFinished():
                made[event.phase.value] += len(event.recorder.interactions)
                broken += [
                    f"{event.phase.value}: {check.failure_info.failure}\n{check.failure_info.code_sample}"
                    for checks in event.recorder.checks.values()
                    for check in checks
                    if check.failure_info
                ]
            case events.NonFatalError():
                broken.append(f"{event.label}: {event.value!r}")
            case events.FatalError():
                broken.append(repr(event.exception))
    assert not broken, f"{len(broken)} broken words, such as\n" + "\n\n".join(broken[:5])
    return made


@pytest.mark.parametrize("caller", ["anybody", "nobody", "a client"])
def test_every_endpoint_behaves_as_described(
    caller: str,
    grpc_channel: Any,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Schemathesis looks for Flask in each request: where none is, that takes a tenth of the time.
    monkeypatch.setitem(sys.modules, "flask", None)
    # For the sake of the gRPC server each request would connect anew, which is a third of the time.
    for database in connections.settings.values():
        monkeypatch.setitem(database, "CONN_MAX_AGE", settings.CONNECTION_AGE)
    settings.ORDER_SERVICE_GRPC = grpc_channel.target
    settings.RATE_LIMIT_ORDERS_PER_MINUTE = 0
    if caller != "anybody":
        settings.API_AUTH = "required"
        settings.JWT_KEY_FILES = [new_key(tmp_path / "key.pem")]
    headers = bearer("shop", *SCOPES, exp=FOR_EVER) if caller == "a client" else {}
    # Every limit of every field, which is most of the requests, is the same for all callers: one of them tries it.
    phases = PHASES if EXAMPLES or caller == "a client" else set(PHASES) - {"coverage"}
    made = keeps_its_word(headers, phases)
    assert all(made[phase] for phase in phases), made
    if EXAMPLES:
        with capsys.disabled():
            print(f"\n{caller}: {made.total()} requests, {dict(made)}")
