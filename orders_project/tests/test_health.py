"""Health: what is checked, what is answered, and that the answer comes in time."""

import os
import re
import threading
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from orders import services
from orders.models import Outgoing
from orders_project import __version__
from orders_project.observability import health
from outbox import heartbeat

pytestmark = pytest.mark.django_db(transaction=True)

DATABASES = {"database default", "database orders", "database payments", "database processing"}
EVERYTHING = DATABASES | {"broker", "relay orders", "relay payments", "relay processing"}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Healthy parts are found healthy, on a busy machine too."""
    monkeypatch.setattr(health, "examine", partial(health.examine, timeout=60))


@pytest.fixture
def no_broker(settings: Any) -> None:
    settings.AMQP_URL = "amqp://nobody:nothing@127.0.0.1:1//"


class TestThePages:
    @pytest.mark.parametrize("path", ["/health", "/healthz", "/health/", "/healthz/"])
    def test_health_names_every_part(self, client: Client, path: str) -> None:
        answer = client.get(path)
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")
        assert answer.json()["parts"] == dict.fromkeys(EVERYTHING, "ok")
        assert answer.json()["version"] == __version__

    def test_without_the_broker_it_fails_and_orders_are_still_served(self, client: Client, no_broker: None) -> None:
        answer = client.get("/health")
        assert answer.status_code == 503
        failed = {part: state for part, state in answer.json()["parts"].items() if state != "ok"}
        assert failed == {"broker": "failed: ConnectionRefusedError"}
        assert client.get("/health/ready").status_code == 200
        assert client.get("/health/live").status_code == 200

    def test_a_relay_that_lags_is_named(self, client: Client) -> None:
        new = services.NewOrder(lines=(services.Line(quantity=1, price=5),), user_id="ann")
        services.place_order(new=new, now=timezone.now())
        Outgoing.objects.update(due_at=timezone.now() - timedelta(seconds=45))
        answer = client.get("/health")
        assert answer.status_code == 503
        behind = re.fullmatch(r"failed: (\d+) s behind", answer.json()["parts"]["relay orders"])
        assert behind is not None
        assert 45 <= int(behind[1]) < 45 + 60
        assert answer.json()["parts"]["relay payments"] == "ok"

    def test_started_checks_the_migrations(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        assert client.get("/health/started").json()["parts"] == dict.fromkeys(DATABASES, "ok")
        monkeypatch.setattr("django.db.migrations.executor.MigrationExecutor.migration_plan", lambda *_: ["one"])
        assert client.get("/health/started").status_code == 503


class TestChecks:
    def test_end_in_time_though_one_hangs(self) -> None:
        released = threading.Event()

        def hang() -> None:
            released.wait()

        found = health.examine({"hangs": hang, "well": lambda: None}, timeout=3)
        released.set()
        assert {f.part: f.trouble for f in found} == {"hangs": "no answer within 3 s", "well": ""}


class TestTheCommand:
    @pytest.fixture
    def file(self, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        settings.HEARTBEAT_FILE = str(tmp_path / "beat")
        monkeypatch.setattr(heartbeat, "_next", 0.0)
        return tmp_path / "beat"

    def test_succeeds_for_a_worker_with_a_heartbeat(self, file: Path, capsys: Any) -> None:
        heartbeat.beat()
        call_command("health", "worker")
        assert "heartbeat" in capsys.readouterr().out

    @pytest.mark.parametrize("beaten", [False, True])
    def test_fails_for_a_worker_that_hangs(self, file: Path, capsys: Any, beaten: bool) -> None:
        now = timezone.now()
        if beaten:
            file.touch()
            long_ago = now.timestamp() - 60
            os.utime(file, (long_ago, long_ago))
        with time_machine.travel(now, tick=False), pytest.raises(SystemExit) as end:
            call_command("health", "worker")
        assert end.value.code == 1
        assert ("last heartbeat 60 s ago" if beaten else "no heartbeat") in capsys.readouterr().out

    def test_names_what_fails(self, no_broker: None, capsys: Any) -> None:
        with pytest.raises(SystemExit):
            call_command("health")
        assert "broker                 failed: ConnectionRefusedError" in capsys.readouterr().out
