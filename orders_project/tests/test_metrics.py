"""The counters, the gauges of the databases, and `/metrics`, which shows both."""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from django.db import connections, transaction
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from orders import services
from orders.models import Outgoing, WebhookDelivery, WebhookEndpoint
from orders_project.observability import metrics
from orders_project.tests import forked
from outbox import metrics as counted
from outbox.gauges import Reading
from payments import services as money

FROM_THE_SEEDS = {
    "events_published_total", "events_failed_total", "events_moved_to_dlq_total", "orders_created_total",
    "orders_processed_total", "orders_total", "orders_paid_total", "orders_canceled_total", "outbox_pending",
    "worker_errors_total",
}  # fmt: skip


def numbers(text: str) -> dict[str, float]:
    """Every sample, by its name and labels as they are written."""
    return {name: float(value) for name, value in re.findall(r"^([^#\s].*) (\S+)$", text, re.MULTILINE)}


@pytest.fixture
def seen(client: Client) -> Any:
    """The samples of a scrape that reads the databases anew."""

    def scrape() -> dict[str, float]:
        metrics.STORED._taken.clear()
        answer = client.get("/metrics")
        assert answer.status_code == 200
        return numbers(answer.content.decode())

    return scrape


@pytest.mark.django_db
class TestAScrape:
    def test_has_every_name_of_the_seeds_without_labels(self, seen: Any) -> None:
        assert seen().keys() >= FROM_THE_SEEDS

    def test_is_well_formed_and_names_each_family_once(self, client: Client) -> None:
        text = client.get("/metrics").content.decode()
        families = [family.name for family in text_string_to_metric_families(text)]
        assert len(families) == len(set(families))

    def test_counts_due_messages_and_not_timers(self, seen: Any) -> None:
        services.place_order(
            new=services.NewOrder(lines=(services.Line(quantity=1, price=500),), user_id="ann"), now=timezone.now()
        )
        assert Outgoing.objects.count() == 3  # the charge, the fact, and a timer that isn't due
        found = seen()
        assert (found["outbox_pending"], found['outbox_service_pending{service="orders"}']) == (2, 2)
        assert found['orders_open{status="pending"}'] == 1
        assert found['orders_stuck{status="pending"}'] == 0

    def test_shows_webhooks_that_are_late(self, seen: Any) -> None:
        now = timezone.now()
        WebhookEndpoint.objects.create(url="https://shop.example", created_at=now)
        services.place_order(
            new=services.NewOrder(lines=(services.Line(quantity=1, price=500),), user_id="ann"), now=now
        )
        assert seen()["webhook_deliveries_late"] == 0
        WebhookDelivery.objects.update(next_at=now - timedelta(minutes=2))
        assert seen()["webhook_deliveries_late"] == 1
        WebhookDelivery.objects.update(status="delivered")
        assert seen()["webhook_deliveries_late"] == 0

    def test_shows_a_ledger_that_does_not_add_up(self, seen: Any) -> None:
        money.open_account(user_id="ann")
        money.deposit(user_id="ann", amount=2000, now=timezone.now())
        assert seen()['ledger_imbalance{currency="USD"}'] == 0
        money.open_account(user_id="ann", currency="JPY")
        with connections["payments"].cursor() as cursor:
            cursor.execute("UPDATE payments_account SET balance = 7 WHERE user_id = 'ann' AND currency = 'JPY'")
        found = seen()
        assert found['ledger_imbalance{currency="JPY"}'] == 7
        assert found['ledger_imbalance{currency="USD"}'] == 0

    def test_costs_a_fixed_number_of_queries_and_none_if_repeated_soon(
        self, seen: Any, client: Client, django_assert_num_queries: Any
    ) -> None:
        readings = {
            service: sum(r.database == service for r in metrics.readings()) for service in ("orders", "payments")
        }
        for service, number in readings.items():
            metrics.STORED._taken.clear()
            # Each in a transaction (here a savepoint: two more), with its time limit set first.
            with django_assert_num_queries(4 * number, using=service):
                client.get("/metrics")
            with django_assert_num_queries(0, using=service):
                client.get("/metrics")


@pytest.mark.django_db
class TestADatabaseThatIsLost:
    def test_is_reported_and_hides_no_other(self) -> None:
        broken = Reading("payments", "SELECT nonsense", {"nonsense": "None."})
        fine = Reading("orders", "SELECT 1 AS fine", {"fine": "One."})
        families = {f.name: f for f in metrics.Stored((broken, fine)).collect()}
        assert [s.value for s in families["fine"].samples] == [1]
        assert {s.labels["database"]: s.value for s in families["database_up"].samples} == {"payments": 0, "orders": 1}


class TestCounting:
    @pytest.mark.django_db(transaction=True)
    def test_a_whole_order_is_counted_where_it_happens(self, post: Any, seen: Any) -> None:
        money.open_account(user_id="ann")
        money.deposit(user_id="ann", amount=2000, now=timezone.now())
        before = seen()
        services.place_order(
            new=services.NewOrder(lines=(services.Line(quantity=1, price=500),), user_id="ann"), now=timezone.now()
        )
        post.times = 2
        post.run()
        after = seen()
        grown = {name: after[name] - before.get(name, 0) for name in after}
        for name in ("orders_created_total", "orders_total", "orders_paid_total", "orders_processed_total"):
            assert grown[name] == 1, name
        assert grown["orders_canceled_total"] == 0
        assert grown['saga_steps_total{after="done",before="paid",event="order.processed"}'] == 1
        assert grown['order_seconds_count{status="done"}'] == 1
        assert grown['inbox_duplicates_total{service="payments"}'] == 1
        assert grown['consumer_seconds_count{type="payments.charge"}'] == 2

    @pytest.mark.django_db(transaction=True)
    def test_a_rollback_counts_nothing(self, seen: Any) -> None:
        before = seen()["orders_created_total"]
        with transaction.atomic(using="orders"):
            services.place_order(
                new=services.NewOrder(lines=(services.Line(quantity=1, price=5),), user_id="ann"), now=timezone.now()
            )
            transaction.set_rollback(True, using="orders")
        assert seen()["orders_created_total"] == before

    def test_a_label_has_few_values(self) -> None:
        few = counted.Few(limit=2)
        assert [few(word) for word in ("a", "b", "c", "a", "d")] == ["a", "b", "other", "a", "other"]


@pytest.mark.processes
class TestSeveralProcesses:
    COUNT = (
        "import django; django.setup(); from orders.metrics import ORDERS_CREATED; from orders_project.http.middleware "
        "import POOL; ORDERS_CREATED.inc(3); POOL.labels('orders', 'size').set(4); "
    )
    SHOW = (
        "from orders_project.observability.metrics import Counted; from prometheus_client import generate_latest; "
        "print(generate_latest(Counted()).decode())"
    )

    def run(self, code: str, folder: Path) -> str:
        env = os.environ | {
            "PROMETHEUS_MULTIPROC_DIR": str(folder),
            "DJANGO_SETTINGS_MODULE": "orders_project.settings",
        }
        done = forked.run(["python", "-c", code], env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_add_up_and_only_the_counters_of_ended_ones_are_kept(self, tmp_path: Path) -> None:
        folder = tmp_path / "shared"
        self.run(self.COUNT, folder)
        text = self.run(self.COUNT + self.SHOW, folder)
        found = numbers(text)
        assert found["orders_created_total"] == found["orders_total"] == 6
        assert found['database_pool{database="orders",what="size"}'] == 4

    def test_are_in_a_folder_that_goes_with_the_process_that_made_it(self, tmp_path: Path) -> None:
        code = (
            "import os, sys; from django.conf import settings; settings.METRICS_PORT; "
            "os.fork() or sys.exit(); os.wait(); print(os.listdir(os.environ['TMPDIR']))"
        )
        env = os.environ | {
            "DJANGO_SETTINGS_MODULE": "orders_project.settings", "METRICS_PORT": "9100", "TMPDIR": str(tmp_path),
        }  # fmt: skip
        env.pop("PROMETHEUS_MULTIPROC_DIR", None)
        done = forked.run(["python", "-c", code], env=env)
        assert "'orders-metrics-" in done.stdout, done.stderr  # its child has ended
        assert os.listdir(tmp_path) == []


@pytest.mark.django_db
@pytest.mark.parametrize("databases", [True, False])
def test_a_process_without_a_web_server_shows_them_on_a_port(databases: bool) -> None:
    server = metrics.serve(host="127.0.0.1", port=0, databases=databases)
    try:
        answer = requests.get(f"http://127.0.0.1:{server.server_port}/metrics", timeout=60)
    finally:
        server.shutdown()
        server.server_close()
    assert answer.status_code == 200
    assert "orders_created_total" in numbers(answer.text)
    assert ("outbox_pending" in numbers(answer.text)) is databases
