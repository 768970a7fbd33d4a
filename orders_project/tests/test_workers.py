"""What `celery inspect` and `manage.py workers` make of the answers; see test_observability.py for a real run."""

from types import SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import AccessRefused, NotFound
from celery.worker.control import Panel
from celery.worker.pidbox import Pidbox
from django.core.management import CommandError, call_command

from orders_project.celery import WORK, app
from orders_project.celery_inspect import ANSWERED
from orders_project.celery_worker import Answers
from orders_project.observability import workers


def test_workers_answer_what_celery_knows_as_a_question() -> None:
    assert {name for name in ANSWERED if Panel.meta[name].type != "inspect"} == set()


@pytest.mark.parametrize("refusal", [NotFound, AccessRefused])
def test_a_worker_works_where_questions_are_not_declared(
    refusal: type[Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: Any) -> None:
        raise refusal("inspect.questions")

    monkeypatch.setattr(Pidbox, "start", refuse)
    consumer: Any = SimpleNamespace(app=app, hostname="me", pool=None, controller=SimpleNamespace(use_eventloop=True))
    Answers(consumer).start(consumer)
    assert "does not answer `celery inspect`" in caplog.text


def request(name: str, shown: str, began: float | None) -> dict[str, Any]:
    return {"name": name, "args": shown, "time_start": began, "worker_pid": 7}


@pytest.mark.django_db
class TestWhatWorkersDo:
    @pytest.fixture
    def answers(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        monkeypatch.setattr(workers.time, "time", lambda: 1000.0)
        known = {
            "active_queues": {"a@1": [{"name": "orders.beat"}, {"name": "orders"}], "b@1": [{"name": "payments"}]},
            "active": {
                "a@1": [request("outbox.tick", "('orders',)", 999.0), request("order.processed", "…", None)],
                "b@1": [request("payments.charge", "(payments.charge o-1 +24)", 800.0)],
            },
            "reserved": {"b@1": [{}, {}]},
        }
        monkeypatch.setattr(workers, "_ask", lambda what, **options: known[what])
        return known

    def test_is_shown_with_what_needs_a_person(self, answers: Any, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            call_command("workers")
        assert [line.split() for line in capsys.readouterr().out.splitlines()][1:5] == [
            ["a@1", "7", "outbox.tick", "1", "s"],
            ["a@1", "7", "order.processed", "0", "ms"],
            ["b@1", "7", "payments.charge", "3", "min", "o-1", "and", "24", "more"],
            ["b@1", "2", "waiting"],
        ]
        assert workers.look().troubles == [
            "no worker of the queue processing has answered: it is not running, or it hangs",
            "no worker of the queue orders.webhooks has answered: it is not running, or it hangs",
            "b@1 has been handling payments.charge for 200 s: manage.py order o-1",
        ]

    def test_is_fine_if_each_queue_has_a_worker_that_is_not_held_up(self, answers: Any) -> None:
        answers["active_queues"]["a@1"] = [{"name": name} for name in WORK]
        answers["active"]["b@1"] = []
        call_command("workers")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AccessRefused("no"), "may not ask workers"),
        (NotFound("no queue"), "declare_topology"),
        (ConnectionRefusedError(), "cannot be reached"),
    ],
)
def test_who_cannot_ask_is_told_why(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(workers, "_ask", fail)
    with pytest.raises(CommandError, match=said):
        call_command("workers")
