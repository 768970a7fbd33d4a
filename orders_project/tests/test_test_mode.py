"""What the test mode knows is what its page says, and the demo data have its products."""

from pathlib import Path

import pytest
from django.core.management import call_command

from common import money, trial_outcomes
from orders_project.contracts import DOCS
from processing.models import Product

pytestmark = pytest.mark.django_db


def test_its_page_has_every_total_and_product() -> None:
    totals = [
        f"| `{money.exact(total, currency='USD')}` | {known.outcome} |"
        for total, known in trial_outcomes.TOTALS.items()
    ]
    products = [f"| `{sku}` | {outcome} |" for sku, outcome in trial_outcomes.SKUS.items()]
    page = [line for line in (DOCS / "test-mode.md").read_text().splitlines() if line.startswith("| `")]
    assert page == totals + products


def test_the_demo_data_have_its_products(tmp_path: Path) -> None:
    call_command("load_demo", password_file=tmp_path / "password")
    assert dict(Product.objects.filter(sku__in=trial_outcomes.SKUS).values_list("sku", "available")) == {
        trial_outcomes.SOLD_OUT: 0,
        trial_outcomes.REFUSED: 1000,
    }
