"""GET /orders sorted, filtered by what has changed, and with the history of each order."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import time_machine
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from common import keyset
from orders import factories, services, transitions
from orders.models import Order
from outbox import clock

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SORTS = ("created_at", "-created_at", "updated_at", "-updated_at")


def listed(client: Any, query: str) -> list[str]:
    """The ids on all pages, one after the other."""
    found: list[str] = []
    path = f"/orders?{query}"
    while path:
        answer = client.get(path)
        assert answer.status_code == 200, answer.content
        found += [order["order_id"] for order in answer.json()["results"]]
        path = answer.json()["next"]
    return found


def at(created: int, updated: int) -> str:
    """An order that was placed and changed in these hours; its id."""
    order = factories.order()
    moments = {"created_at": NOON + timedelta(hours=created), "updated_at": NOON + timedelta(hours=updated)}
    Order.objects.filter(pk=order.pk).update(**moments)
    return order.order_id


class TestSorted:
    @pytest.mark.parametrize("limit", [1, 2, 3, 100])
    def test_by_each_order_over_all_pages(self, client: Client, limit: int) -> None:
        hours = {at(1, 9): (1, 9), at(2, 5): (2, 5), at(3, 7): (3, 7), at(4, 4): (4, 4)}
        for sort in SORTS:
            wanted = sorted(hours, key=lambda one: hours[one][sort.endswith("updated_at")], reverse=sort[0] == "-")
            assert listed(client, f"sort={sort}&limit={limit}") == wanted, sort
        assert listed(client, f"limit={limit}") == listed(client, f"sort=-created_at&limit={limit}")

    def test_shows_each_order_once_though_many_changed_at_the_same_moment(self, client: Client) -> None:
        ids = {at(number // 4, number // 4) for number in range(11)}
        for sort in SORTS:
            found = listed(client, f"sort={sort}&limit=3")
            assert (len(found), set(found)) == (11, ids)

    @pytest.mark.parametrize("sort", ["total", "-", "created_at,updated_at", "-status", "order_id", "--created_at"])
    def test_by_anything_else_is_refused_with_what_there_is(self, client: Client, sort: str) -> None:
        answer = client.get(f"/orders?sort={sort}")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
        assert all(name in answer.json()["errors"]["sort"][0] for name in SORTS)

    def test_a_cursor_is_for_the_order_that_it_came_with(self, client: Client) -> None:
        for hour in range(3):
            at(hour, 9 - hour)
        for sort in ("", *SORTS):
            page = client.get(f"/orders?limit=1&sort={sort}").json()["next"]
            cursor = page.partition("cursor=")[2].partition("&")[0]
            for other in ("", *SORTS):
                same = (sort or "-created_at") == (other or "-created_at")
                answer = client.get(f"/orders?limit=1&sort={other}&cursor={cursor}")
                assert answer.status_code == (200 if same else 400), (sort, other)

    def test_a_cursor_of_the_release_before_is_known(self, client: Client) -> None:
        ids = [at(hour, hour) for hour in (3, 2, 1)]
        cursor = "WyIyMDI2LTAzLTAxIDE1OjAwOjAwKzAwOjAwIiwgIn4iXQ=="  # ["2026-03-01 15:00:00+00:00", "~"]
        assert listed(client, f"cursor={cursor}") == ids

    @pytest.mark.parametrize("sort", SORTS)
    def test_a_cursor_with_the_id_of_an_order_goes_on_after_it(self, client: Client, sort: str) -> None:
        for _ in range(4):
            at(1, 1)
        ids = listed(client, f"sort={sort}")
        key = [NOON + timedelta(hours=1), ids[1]]
        cursor = keyset.encode(key, sort="" if sort == "-created_at" else sort)
        assert listed(client, f"sort={sort}&limit=1&cursor={cursor}") == ids[2:]

    @pytest.mark.parametrize("number", [10**50, -(10**50), 2**63, -1])
    def test_a_cursor_with_a_number_that_no_order_can_have_is_none_or_an_end(self, client: Client, number: int) -> None:
        ids = [at(1, 1)]
        cursor = keyset.encode([NOON + timedelta(hours=1), number])
        assert listed(client, f"cursor={cursor}") == (ids if number > 0 else [])

    @pytest.mark.parametrize("path", ["/accounts", "/orders/x/events"])
    def test_is_no_parameter_of_other_lists(self, client: Client, path: str) -> None:
        factories.order(order_id="x")
        assert list(client.get(f"{path}?sort=created_at").json()["errors"]) == ["sort"]


class TestChangedSince:
    def test_is_inclusive(self, client: Client) -> None:
        early, late = at(0, 1), at(0, 2)
        assert set(listed(client, "updated_since=2026-03-01T13:00:00Z")) == {early, late}
        assert listed(client, "updated_since=2026-03-01T13:00:00.000001Z") == [late]
        assert listed(client, "updated_since=2026-03-01T14:00:00Z&status=pending&user_id=ann&sort=updated_at") == [late]
        assert client.get("/orders?updated_since=yesterday").status_code == 400

    def test_shows_its_own_orders_to_a_client(self, client_named: Callable[[str], APIClient]) -> None:
        mine = factories.order(principal="me")
        factories.order(principal="you")
        assert listed(client_named("me"), "updated_since=2026-01-01T00:00:00Z&sort=updated_at") == [mine.order_id]

    def test_an_order_that_changes_while_its_pages_are_read_comes_again(self, client: Client) -> None:
        ids = [factories.order().order_id for _ in range(4)]
        page = client.get("/orders?sort=updated_at&limit=2").json()
        seen = [order["order_id"] for order in page["results"]]
        for order_id in (ids[0], ids[3]):  # one that was seen and one that was not
            services.cancel_order(order_id=order_id, now=timezone.now())
        while page["next"]:
            page = client.get(page["next"]).json()
            seen += [order["order_id"] for order in page["results"]]
        assert seen == [*ids[:2], ids[2], ids[0], ids[3]]


@pytest.mark.django_db(transaction=True)
def test_who_polls_misses_nothing_of_transactions_that_commit_late(client: Client) -> None:
    """As docs/api.md says: each poll begins a while before the latest change that was seen."""
    slow, quick = factories.order(order_id="slow"), factories.order(order_id="quick")
    known: dict[str, int] = {}
    since = NOON

    def poll() -> None:
        nonlocal since
        path = f"/orders?sort=updated_at&limit=1&updated_since={quote(since.isoformat())}"
        while path:
            page = client.get(path).json()
            for order in page["results"]:
                known[order["order_id"]] = max(order["version"], known.get(order["order_id"], 0))
                since = max(since, datetime.fromisoformat(order["updated_at"]) - timedelta(minutes=5))
            path = page["next"]

    with psycopg.connect(**connections["orders"].get_connection_params()) as late:
        late.execute("UPDATE orders_order SET version = 2, updated_at = now() WHERE order_id = %s", [slow.pk])
        services.cancel_order(order_id=quick.pk, now=timezone.now())
        poll()
        assert known == {"slow": 1, "quick": 2}
    poll()
    assert known == {"slow": 2, "quick": 2}


class TestTheTimeOfAChange:
    def test_is_not_that_before_its_process_was_frozen(self) -> None:
        order = factories.order()
        before = timezone.now()
        services.cancel_order(order_id=order.pk, now=before - timedelta(minutes=10))
        order.refresh_from_db()
        assert order.updated_at >= before
        assert [event.at for event in order.events.order_by("version")][-1] == order.updated_at

    def test_is_not_earlier_than_that_of_the_change_before(self) -> None:
        order = factories.order()
        Order.objects.filter(pk=order.pk).update(updated_at=(later := timezone.now() + timedelta(seconds=3)))
        services.cancel_order(order_id=order.pk, now=timezone.now())
        order.refresh_from_db()
        assert order.updated_at == later

    def test_of_a_new_order_is_when_it_is_stored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        begin, now = transitions.begin, clock.now("orders")

        def slowly(*args: Any, **kwargs: Any) -> None:
            with time_machine.travel(now + timedelta(minutes=2)):
                begin(*args, **kwargs)

        monkeypatch.setattr(transitions, "begin", slowly)
        order = factories.order()
        assert order.updated_at - order.created_at >= timedelta(seconds=119)
        assert order.events.get().at == order.updated_at


class TestExpanded:
    @pytest.fixture
    def order_id(self, client: Client) -> str:
        order = factories.order()
        client.post(f"/orders/{order.pk}/cancel")
        return order.pk

    def test_shows_the_history_with_an_order(self, client: Client, order_id: str) -> None:
        alone = client.get(f"/orders/{order_id}").json()
        assert "events" not in alone
        history = client.get(f"/orders/{order_id}/events").json()["results"]
        with CaptureQueriesContext(connections["orders"]) as queries:
            answer = client.get(f"/orders/{order_id}?expand=events")
        assert answer.json() == alone | {"events": history}
        assert (len(history), len(queries)) == (2, 3)
        assert client.get(f"/orders/{order_id}?expand=events,,events&expand=").json() == answer.json()

    def test_shows_it_with_each_order_of_a_page_by_one_query(self, client: Client, order_id: str) -> None:
        for count in (0, 20):
            for _ in range(count):
                factories.order()
            with CaptureQueriesContext(connections["orders"]) as queries:
                orders = client.get("/orders?expand=events&limit=100").json()["results"]
            assert len(queries) == 3
            assert all(order["version"] == len(order["events"]) for order in orders)
            assert orders[-1]["order_id"] == order_id

    @pytest.mark.parametrize(("path", "there_is"), [("/orders/{}", "events, payment"), ("/orders", "events")])
    def test_of_anything_else_is_refused_with_what_there_is(
        self, client: Client, order_id: str, path: str, there_is: str
    ) -> None:
        answer = client.get(path.format(order_id) + "?expand=events,holds")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
        assert answer.json()["errors"]["expand"] == [f"Expand any of: {there_is}."]

    def test_is_for_those_who_may_see_the_order(self, client_named: Callable[[str], APIClient]) -> None:
        order = factories.order(principal="you")
        assert client_named("me").get(f"/orders/{order.shown_id}?expand=events").status_code == 404
        assert client_named("me").get("/orders?expand=events").json()["results"] == []
