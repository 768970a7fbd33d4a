"""An action with many rows of a list: the selected ones, or all that match; in the background, and never twice."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from common.admin import ReadOnlyAdmin, bulk_rows, bulk_runs
from orders import factories, webhook_endpoints
from orders.models import Order, OrderEvent, Status
from orders.webhook_models import WebhookDelivery
from orders_project.backoffice.orders import Orders
from orders_project.models import BulkRow, BulkRun

pytestmark = pytest.mark.django_db

ALL = "/admin/orders/order/all/cancel/"
OPEN = f"{ALL}?standing=open"


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows are already several steps and pages."""
    monkeypatch.setattr(bulk_runs, "STEP", 2)
    monkeypatch.setattr(bulk_rows, "PAGE", 2)
    monkeypatch.setattr(ReadOnlyAdmin, "list_per_page", 2)


def browser_of(role: str) -> Client:
    user = User.objects.create_user(role, is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


def form_of(boss: Client, where: str, **form: str) -> dict[str, str]:
    """The form of the page, filled in."""
    page = boss.get(where).context
    assert page is not None, "there is no form"
    once = str(page["form"]["once"].value())
    return {"once": once, "version": "1", "upto": page["upto"], "reason": "recalled", **form}


def confirm(boss: Client, where: str, **form: str) -> BulkRun:
    answer = boss.post(where, form_of(boss, where, **form))
    assert answer.status_code == 302
    run = BulkRun.objects.latest("id")
    assert answer["Location"] == f"/admin/orders_project/bulkrun/{run.pk}/change/"
    return run


def selected(boss: Client, model: str, action: str, rows: list[Any]) -> str:
    """The page to which the list leads whoever has ticked these rows."""
    chosen = {"action": f"many_{action}", "_selected_action": [row.pk for row in rows], "index": "0"}
    return str(boss.post(reverse(f"admin:{model}_changelist"), chosen)["Location"])


def ended(run: BulkRun) -> tuple[str, dict[str, int]]:
    run.refresh_from_db()
    return run.status, bulk_runs.counts(run)


def test_all_orders_of_a_filter_are_canceled_each_by_its_own_rules(boss: Client, post: Any) -> None:
    done = factories.order(user_id="poor")
    post.run()
    orders = [factories.order(user_id="", user_email=f"{n}@example.com") for n in range(5)]
    factories.order(user_id="other")
    Order.objects.filter(user_id="other").update(status=Status.DONE)
    (link,) = boss.get("/admin/orders/order/?standing=open&o=2").context["matching_actions"]
    assert link["url"] == OPEN
    page = boss.get(OPEN).context
    assert (page["said"], page["about"]) == ("5 rows match.", ["Progress: in progress"])
    run = confirm(boss, OPEN)
    late = factories.order(user_id="late")
    Order.objects.filter(pk=orders[0].pk).update(status=Status.DONE)  # has moved on since
    bulk_runs.work_off(uuid4())
    assert ended(run) == ("finished", {"done": 4, "skipped": 1})
    (left,) = run.rows.filter(outcome="skipped")
    assert (left.key, "state_changed" in left.said) == (orders[0].pk, True)
    assert OrderEvent.objects.filter(data__note="recalled", actor="boss").count() == 4
    post.run()
    assert Order.objects.filter(status=Status.CANCELED).count() == 4
    late.refresh_from_db()
    done.refresh_from_db()
    assert (late.status, done.status) != (Status.CANCELED, Status.CANCELED)
    first, *_each, last = LogEntry.objects.order_by("id").values_list("change_message", flat=True)
    assert first == "Cancel order: 5 rows where standing=open. reason: recalled"
    assert last == f"cancel finished: 4 done, 1 skipped, 0 failed of 5. Bulk action {run.pk}."
    shown = boss.get(f"/admin/orders_project/bulkrun/{run.pk}/change/").content.decode()
    assert "5 of 5 done" in shown
    assert orders[0].pk in shown


def test_a_row_that_changes_between_reading_and_acting_is_read_again(
    boss: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        factories.order()
    run, call = confirm(boss, OPEN), Orders._call

    def meanwhile(*args: Any) -> Any:
        Order.objects.filter(pk=args[2].pk, version=1).update(version=2)
        return call(*args)

    monkeypatch.setattr(Orders, "_call", meanwhile)
    bulk_runs.work_off(uuid4())
    assert ended(run) == ("finished", {"done": 3})
    assert OrderEvent.objects.filter(data__note="recalled", version=3).count() == 3


def test_what_it_covers_is_what_one_has_seen(boss: Client) -> None:
    for _ in range(3):
        factories.order()
    form = form_of(boss, OPEN)
    late = factories.order()
    boss.post(OPEN, form)
    run = BulkRun.objects.get()
    assert (run.total, run.rows.filter(key=late.pk).exists()) == (3, False)
    boss.post(OPEN, form)  # a double click
    assert BulkRun.objects.get().rows.count() == 3


@pytest.mark.parametrize("killed_after_the_effect", [False, True])
def test_killed_at_a_row_it_goes_on_there_and_does_nothing_twice(
    boss: Client, monkeypatch: pytest.MonkeyPatch, killed_after_the_effect: bool
) -> None:
    orders = [factories.order() for _ in range(3)]
    run, acted, act = confirm(boss, OPEN), [], bulk_runs._act

    def killed(*args: Any) -> Any:
        acted.append(args[-1])
        if len(acted) == 2:
            if killed_after_the_effect:
                act(*args)
            raise SystemExit
        return act(*args)

    monkeypatch.setattr(bulk_runs, "_act", killed)
    with pytest.raises(SystemExit):
        bulk_runs.work_off(uuid4())
    bulk_runs.work_off(uuid4())  # another process, as long as the claim of the first one holds
    assert ended(run) == ("running", {"done": 1, "": 2})
    BulkRun.objects.update(claimed_until=timezone.now() - timedelta(seconds=1))
    bulk_runs.work_off(uuid4())
    assert ended(run) == ("finished", {"done": 3})
    assert len(acted) == 4
    assert OrderEvent.objects.filter(data__note="recalled").count() == len(orders)
    bulk_runs.work_off(uuid4())
    assert len(acted) == 4


def test_is_stopped_by_who_may_do_it_and_leaves_the_rest(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        factories.order()
    run, act = confirm(boss, OPEN), bulk_runs._act
    stop = f"/admin/orders_project/bulkrun/{run.pk}/stop/"
    assert browser_of("viewer").post(stop).status_code == 403
    assert boss.get(stop).status_code == 405
    operator = browser_of("operator")
    assert stop in operator.get(f"/admin/orders_project/bulkrun/{run.pk}/change/").content.decode()

    def stopping(*args: Any) -> Any:
        operator.post(stop)
        return act(*args)

    monkeypatch.setattr(bulk_runs, "_act", stopping)
    bulk_runs.work_off(uuid4())
    assert ended(run) == ("stopped", {"done": 2, "": 1})
    assert run.why_stopped == "Stopped by operator."
    bulk_runs.work_off(uuid4())
    assert ended(run) == ("stopped", {"done": 2, "": 1})


def test_ends_when_its_author_may_not_do_it_any_more(post: Any) -> None:
    operator = browser_of("operator")
    factories.order()
    run = confirm(operator, OPEN)
    User.objects.get(username="operator").groups.clear()
    bulk_runs.work_off(uuid4())
    assert ended(run) == ("stopped", {"": 1})
    assert run.why_stopped == "operator may not do this any more."
    assert not OrderEvent.objects.filter(data__note="recalled").exists()


def test_an_error_of_one_row_is_shown_and_the_others_go_on(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = [factories.order() for _ in range(3)]
    run, act = confirm(boss, OPEN), bulk_runs._act

    def fails(*args: Any) -> Any:
        if args[-1] == orders[1].pk:
            raise RuntimeError("a bug")
        return act(*args)

    monkeypatch.setattr(bulk_runs, "_act", fails)
    bulk_runs.work_off(uuid4())
    assert ended(run) == ("finished", {"done": 2, "failed": 1})
    assert "unexpected error" in run.rows.get(outcome="failed").said


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "Filter or search the list first."),
        ("?standing=gone", "Filter or search the list first."),
        ("?o=2", "Filter or search the list first."),
        ("?standing=open", "More than 2 rows match."),
        ("?q=an", "More than 2 rows match."),
        ("?status__exact=paid", "No rows match."),
    ],
)
def test_is_refused_without_a_filter_and_with_too_many_rows(
    boss: Client, monkeypatch: pytest.MonkeyPatch, query: str, said: str
) -> None:
    monkeypatch.setattr(bulk_rows, "MAX_ROWS", 2)
    monkeypatch.setattr("common.admin.pages.MOST_FOUND", 1)
    for _ in range(3):
        factories.order(user_id="ann")
    answer = boss.get(ALL + query, follow=True)
    assert said in [str(one)[: len(said)] for one in answer.context["messages"]]
    assert not BulkRun.objects.exists()
    monkeypatch.setattr(bulk_rows, "MAX_ROWS", 20)
    monkeypatch.setattr(bulk_rows, "MAX_SECONDS", -1)
    answer = boss.get(OPEN, follow=True)
    assert "takes too long" in answer.content.decode()


def test_selected_webhooks_are_sent_again(boss: Client, settings: Any) -> None:
    settings.WEBHOOKS_ALLOW_LOOPBACK = True
    webhook_endpoints.register(url="http://127.0.0.1:9/", actor="root", hears_all=True, now=timezone.now())
    for _ in range(3):
        factories.order()
    WebhookDelivery.objects.update(status=WebhookDelivery.Status.FAILED, next_at=None)
    chosen = list(WebhookDelivery.objects.all()[:2])
    run = confirm(boss, selected(boss, "orders_webhookdelivery", "resend", chosen), upto="")
    bulk_runs.work_off(uuid4())
    assert ended(run) == ("finished", {"done": 2})
    assert set(run.rows.values_list("key", flat=True)) == {str(one.pk) for one in chosen}
    where = "/admin/orders/webhookdelivery/all/resend/?status__exact=failed"
    run = confirm(boss, where)
    bulk_runs.work_off(uuid4())
    assert (run.total, ended(run)) == (1, ("finished", {"done": 1}))
    assert set(WebhookDelivery.objects.values_list("status", flat=True)) == {WebhookDelivery.Status.PENDING}


def test_is_for_who_may_do_it_with_one(boss: Client) -> None:
    order, *_others = [factories.order() for _ in range(3)]
    many, viewer = "/admin/orders/order/many/cancel/", browser_of("viewer")
    assert boss.post(f"{many}?ids={order.pk}", {"reason": ""}).status_code == 422
    assert boss.post(OPEN, {"reason": "", "upto": "WzFd"}).status_code == 404
    for where in (f"{many}?ids={order.pk}", OPEN):
        assert viewer.get(where).status_code == 403
        assert boss.get(where.replace("cancel", "refund")).status_code == 404
    careful = Client(enforce_csrf_checks=True)
    careful.force_login(User.objects.get(username="boss"))
    assert careful.post(OPEN, form_of(boss, OPEN)).status_code == 403
    assert viewer.get("/admin/orders/order/?standing=open").context["matching_actions"] == []
    run = confirm(boss, OPEN)
    page = f"/admin/orders_project/bulkrun/{run.pk}/change/"
    assert viewer.get(page).status_code == 200
    User.objects.get(username="viewer").groups.clear()
    assert viewer.get(page).status_code in (302, 403)
    shop = browser_of("shop")
    assert shop.get(page).status_code == 200
    BulkRun.objects.update(page="orders.webhookdelivery")  # which a shop does not see
    assert shop.get(page).status_code in (302, 404)


def test_the_rows_of_an_old_run_are_forgotten_and_their_numbers_stay(boss: Client) -> None:
    factories.order()
    run = confirm(boss, OPEN)
    bulk_runs.work_off(uuid4())
    bulk_runs.forget()
    assert BulkRow.objects.count() == 1
    BulkRun.objects.update(ended_at=timezone.now() - bulk_runs.KEPT - timedelta(hours=1))
    bulk_runs.forget()
    assert not BulkRow.objects.exists()
    assert ended(run) == ("finished", {"done": 1})
    assert "1 of 1 done" in boss.get(f"/admin/orders_project/bulkrun/{run.pk}/change/").content.decode()
