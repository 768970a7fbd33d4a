"""What needs a person: dashboard and `manage.py status` count it alike, and a link opens exactly what is counted."""

from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import OperationalError
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from orders.models import DeadLetter, Order, WebhookDelivery
from orders_project.backoffice import dashboard, readings
from orders_project.models import Approval
from orders_project.observability import concerns, metrics
from orders_project.observability.health import Finding
from orders_project.tests.fill import fill
from outbox.gauges import Reading
from payments import services as money
from payments.models import Difference, Dispute, Payment, Refund, WebhookReceipt
from processing.models import Hold

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def fresh_readings() -> None:
    readings.DASHBOARD._taken.clear()
    metrics.STORED._taken.clear()


def row(model: Any, **fields: Any) -> None:
    model.objects.filter(pk=fill(model, "x").pk).update(**fields)


def ago(**duration: float) -> Any:
    return timezone.now() - timedelta(**duration)


# How often each is made, so that no two numbers are the same by chance.
MADE: dict[str, Callable[[], None]] = {
    "standing=stuck": lambda: row(Order, status="payment_pending", status_since=ago(hours=3)),
    "standing=repeating": lambda: row(Order, status="voiding", status_since=ago(hours=3)),
    "sending=late": lambda: row(WebhookDelivery, status="pending", next_at=ago(minutes=5)),
    "answers=no": lambda: row(Payment, status="requested", ask_at=timezone.now(), unanswered=9),
    "status__exact=void_refused": lambda: row(Payment, status="void_refused"),
    "status__exact=refund_refused": lambda: row(Payment, status="refund_refused"),
    "trouble=late": lambda: row(Refund, status="requested", created_at=ago(hours=2)),
    "trouble=failed": lambda: row(Refund, status="failed", updated_at=ago(hours=2), created_at=ago(days=9)),
    "status__exact=quarantined": lambda: row(WebhookReceipt, status="quarantined"),
    "waiting=late": lambda: row(WebhookReceipt, status="unmatched", received_at=ago(hours=2)),
    "standing=due": lambda: row(Dispute, status="opened", respond_by=ago(days=-1)),
    "waiting=yes": lambda: row(Difference, status="open"),
    "expired=late": lambda: row(Hold, status="held", expires_at=ago(hours=1), asked_at=None),
}
HARMLESS: tuple[Callable[[], None], ...] = (
    lambda: row(Order, status="payment_pending", status_since=timezone.now()),
    lambda: row(WebhookDelivery, status="pending", next_at=timezone.now()),
    lambda: row(Payment, status="requested", ask_at=timezone.now(), unanswered=1),
    lambda: row(Refund, status="requested", created_at=timezone.now()),
    lambda: row(Refund, status="failed", updated_at=ago(days=2)),
    lambda: row(WebhookReceipt, status="unmatched", received_at=timezone.now()),
    lambda: row(Dispute, status="opened", respond_by=ago(days=-20)),
    lambda: row(Hold, status="held", expires_at=ago(hours=-1)),
)


def test_every_concern_is_counted_and_its_link_opens_what_it_counts(boss: Client) -> None:
    for number, make in enumerate(MADE.values(), 1):
        for _time in range(number % 3 + 1):
            make()
    for make in HARMLESS:
        make()
    section, *_others = dashboard.sections()
    tiles = {str(tile.label): tile for tile in section.tiles}
    out = StringIO()
    with pytest.raises(SystemExit):
        call_command("status", stdout=out, no_color=True)
    for concern in concerns.CONCERNS:
        tile = tiles.pop(str(concern.title))
        listed = boss.get(tile.url).context["cl"].result_list
        assert tile.url == reverse("admin:{}_{}_changelist".format(*concern.page)) + f"?{concern.query}"
        assert concern.query in MADE
        assert (str(len(listed)), tile.mood) == (tile.value, "bad"), concern.title
        assert f"! {concern.title}: {tile.value}. {concern.to_do}" in out.getvalue()
    assert not tiles


def test_without_concerns_the_dashboard_says_so(boss: Client) -> None:
    for make in HARMLESS:
        make()
    section, *_others = dashboard.sections()
    assert (section.tiles, str(section.empty)) == ([], "Nothing: everything goes on by itself.")


def test_dead_letters_and_waiting_approvals_need_a_person_too(boss: Client) -> None:
    for number in (1, 2, 3):
        fill(DeadLetter, f"m{number}")
        row(Approval, status="waiting" if number < 3 else "rejected", subject=str(number), decided_by="eve")
    section, *_others = dashboard.sections()
    assert {str(tile.label): tile.value for tile in section.tiles} == {"Dead letters": "3", "Approvals": "2"}
    for tile, listed in zip(section.tiles, ("groups", "cl"), strict=True):
        assert listed in boss.get(tile.url).context, tile.url


def test_no_two_tiles_of_the_dashboard_open_the_same_list_and_each_shows_what_it_sums(boss: Client) -> None:
    for amount, user_id in ((1000, "ann"), (700, "bob")):
        money.open_account(user_id=user_id)
        money.deposit(user_id=user_id, amount=amount, now=timezone.now())
    tiles = [tile for section in dashboard.sections() for tile in section.tiles if tile.url]
    seen: dict[str, Any] = {}
    for tile in tiles:
        assert seen.setdefault(tile.url, tile.label) == tile.label or "age=hour" in tile.url, tile.url
    moved = {str(tile.label): tile for tile in tiles if "/entry/" in tile.url}
    for label in ("in", "deposited"):
        rows = boss.get(moved[label].url).context["cl"].result_list
        assert (moved[label].value, sum(entry.amount for entry in rows)) == ("17.00 USD", 1700)
        assert parse_qs(urlsplit(moved[label].url).query)["currency"] == ["USD"]


@pytest.mark.parametrize("lost", ["orders", "payments", "processing"])
def test_of_a_lost_database_nothing_is_shown_as_zero(boss: Client, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    for make in MADE.values():
        make()
    boss.get(reverse("admin:index"))  # everything has been read a moment ago, as when the database goes away after it
    take = Reading.take

    def gone(reading: Reading) -> Any:
        if reading.database == lost:
            raise OperationalError("gone")
        return take(reading)

    monkeypatch.setattr(Reading, "take", gone)
    troubles = dict.fromkeys(settings.SERVICES, "") | {lost: "OperationalError"}
    found = [Finding(f"database {name}", trouble) for name, trouble in troubles.items()]
    monkeypatch.setattr("orders_project.backoffice.system_health.health.examine", lambda checks: found)
    answer = boss.get(reverse("admin:index"))
    assert answer.status_code == 200
    sections = {str(section.title): section for section in answer.context["sections"]}
    of_orders = ("Orders in progress", "Orders placed, by hour", "Time from accepted to done, last hour")
    for title in ("Needs a person", "Messages due but not sent", "Dead letters"):
        tiles = {str(tile.label): str(tile.value) for tile in sections[title].tiles}
        assert tiles[lost] == "not reachable", title
    empty = [title for title in (*of_orders, "Money, last 24 hours") if str(sections[title].empty) == "not reachable"]
    assert empty == {"orders": [*of_orders], "payments": ["Money, last 24 hours"], "processing": []}[lost]
    (health,) = [tile for tile in sections["Health"].tiles if tile.label == f"database {lost}"]
    assert (str(health.value), health.mood) == ("not reachable", "bad")
    assert not [tile for tile in sections["Needs a person"].tiles if f"/{lost}/" in tile.url]


def test_a_gateway_that_answers_reads_so(monkeypatch: pytest.MonkeyPatch, boss: Client) -> None:
    from payments.metrics import BREAKER_STATE

    BREAKER_STATE.labels("fake").set(0)
    tiles = [tile for section in dashboard.sections() for tile in section.tiles]
    assert [str(tile.value) for tile in tiles if str(tile.label) == "gateway fake"] == ["answering"]
