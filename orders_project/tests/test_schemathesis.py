"""What the API says of itself is true: generated requests, right and wrong ones, to every door."""

import os
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import settings as effort
from schemathesis import checks

from orders_project.wsgi import application

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "15"))  # an operation and test; many more by hand
NAMES = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)
checks.load_all_checks()
CHECKS = [checks.CHECKS.get_one(name) for name in NAMES]

pytestmark = pytest.mark.django_db(transaction=True)
schema = schemathesis.openapi.from_wsgi("/schema?format=json", application)


@schema.parametrize()
@effort(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="SCHEMATHESIS_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
def test_every_door_keeps_its_word(case: Any, grpc_channel: Any, settings: Any) -> None:
    settings.ORDER_SERVICE_GRPC = grpc_channel.target
    settings.RATE_LIMIT_ORDERS_PER_MINUTE = 0
    case.call_and_validate(checks=CHECKS)
