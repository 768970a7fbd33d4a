"""The dashboard: numbers of orders, money and messages, and the health of the system. Each number links to its list."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_lazy as _

from common import reasons
from common.admin import display
from common.durations import duration
from orders.models import ENDS, Status
from orders_project.models import Approval
from orders_project.observability import concerns
from payments.models import Entry

from . import charts, readings, system_health

OUTCOMES = (("done", _("done")), ("open", _("in progress")), ("canceled", _("canceled")), ("failed", _("failed")))


@dataclass(frozen=True)
class Tile:
    """A number with its name. `mood` is "good", "bad" or empty; `note` says the same in words."""

    label: Any
    value: Any
    url: str = ""
    mood: str = ""
    note: Any = ""
    first: bool = False  # whether it begins a row


@dataclass(frozen=True)
class Section:
    """Tiles under one title; `empty` is the text without any."""

    title: Any
    tiles: Sequence[Tile]
    chart: SafeString | str = ""
    empty: Any = ""
    note: Any = ""
    permission: str = ""  # without which nobody sees it


def sections() -> list[Section]:
    """The sections of the dashboard."""
    health = list(system_health.parts())
    taken = readings.take(lost=system_health.lost_databases(health))
    parts = [Tile(part.name, part.state, mood=part.mood) for part in health]
    return [
        _concerns(taken),
        _standing(taken),
        _hourly(taken.own.get(readings.HOURLY)),
        _duration(taken.own.get(readings.DURATION)),
        _money(taken.own.get(readings.TURNOVER)),
        _outboxes(taken),
        _dead(taken),
        Section(_("Health"), parts, permission="orders.view_outgoing"),
    ]


def seen_by(user: Any, shown: Sequence[Section], *, menu: Sequence[Mapping[str, Any]]) -> list[Section]:
    """These sections as far as they are about what a person with this menu may see: no link leads to a 403."""
    pages = {entry["admin_url"] for part in menu for entry in part["models"]}
    return [
        replace(section, tiles=[one for one in section.tiles if not one.url or one.url.partition("?")[0] in pages])
        for section in shown
        if not section.permission or user.has_perm(section.permission)
    ]


NOT_REACHABLE = system_health.NOT_REACHABLE


def _orders(**query: Any) -> str:
    return display.list_url("orders", "order", urlencode(query))


def _lost(taken: readings.Taken) -> list[Tile]:
    """A tile for each service of which nothing is known now, in place of its numbers."""
    return [Tile(service, NOT_REACHABLE, mood="bad") for service in taken.lost]


def _concerns(taken: readings.Taken) -> Section:
    tiles = [
        Tile(one.title, _count(number), display.list_url(*one.page, one.query), "bad", one.to_do)
        for one, number in concerns.found(taken.rows)
    ]
    tiles += _shed(taken) + _dead_letters(taken) + _approvals()
    return Section(_("Needs a person"), [*tiles, *_lost(taken)], empty=_("Nothing: everything goes on by itself."))


def _shed(taken: readings.Taken) -> list[Tile]:
    return [
        Tile(
            _("New orders refused"),
            f"{row['orders_shed_share']:.0%}",
            _orders(standing="open"),
            "bad",
            _g("A new order would have to wait for %(time)s. Check that all workers run, or start more of them.")
            % {"time": duration(float(row["orders_wait_seconds"]))},
        )
        for row in taken.rows
        if row.get("orders_shed_share")
    ]


def _dead_letters(taken: readings.Taken) -> list[Tile]:
    if not (number := sum(row.get("dead_letters", 0) for row in taken.rows)):
        return []
    to_do = _("Open a group: its preview shows what a replay would do.")
    return [Tile(_("Dead letters"), _count(number), reverse("admin:dead_letters"), "bad", to_do)]


def _approvals() -> list[Tile]:
    if not (number := Approval.objects.filter(status=Approval.Status.WAITING).count()):
        return []
    url = display.list_url("orders_project", "approval", f"status__exact={Approval.Status.WAITING}")
    return [Tile(_("Approvals"), _count(number), url, "bad", _("A second person approves or rejects each of them."))]


def _standing(taken: readings.Taken) -> Section:
    found = {row["status"]: row for row in taken.rows if "orders_open" in row}
    if not found:
        return Section(_("Orders in progress"), (), empty=NOT_REACHABLE)
    tiles = [
        Tile(
            status.label,
            _count(found.get(status, {}).get("orders_open", 0)),
            _orders(status__exact=status.value),
            note=_oldest(found.get(status, {})),
        )
        for status in Status
        if status not in ENDS
    ]
    return Section(_("Orders in progress"), tiles)


def _oldest(row: dict[str, Any]) -> str:
    if not row.get("orders_open"):
        return ""
    return _g("oldest %(age)s") % {"age": duration(float(row["orders_open_oldest_seconds"]))}


def _hourly(rows: list[dict[str, Any]] | None) -> Section:
    title = _("Orders placed, by hour")
    if rows is None:
        return Section(title, (), empty=NOT_REACHABLE)
    counted: Counter[tuple[datetime, str]] = Counter()
    for row in rows:
        counted[row["hour"], row["status"] if row["status"] in ENDS else "open"] += row["orders"]
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    hours = [now - timedelta(hours=back) for back in reversed(range(readings.HOURS))]
    chart = charts.bars([_bar(hour, counted) for hour in hours], title=title)
    totals = {kind: sum(n for (_hour, one), n in counted.items() if one == kind) for kind, _label in OUTCOMES}
    tiles = [
        Tile(label, _count(totals[kind]), _orders(age="day", **_outcome(kind)), note=f"bar-{kind}")
        for kind, label in OUTCOMES
    ]
    return Section(title, tiles, chart, note=_newest(sum(totals.values())))


def _newest(counted: int) -> Any:
    return _("Only the newest 100,000 are counted.") if counted >= readings.MAX_ROWS else ""


def _outcome(kind: str) -> dict[str, str]:
    return {"standing": "open"} if kind == "open" else {"status__exact": kind}


def _bar(hour: datetime, counted: Counter[tuple[datetime, str]]) -> charts.Bar:
    span = {"created_at__gte": hour.isoformat(), "created_at__lt": (hour + timedelta(hours=1)).isoformat()}
    return charts.Bar(
        timezone.localtime(hour).strftime("%H:%M"),
        _orders(**span),
        [charts.Part(kind, label, counted[hour, kind]) for kind, label in OUTCOMES],
    )


def _duration(rows: list[dict[str, Any]] | None) -> Section:
    title = _("Time from accepted to done, last hour")
    if not rows:
        return Section(title, (), empty=NOT_REACHABLE)
    (row,) = rows
    done = _orders(status__exact="done", age="hour")
    if not row["orders"]:
        return Section(title, (), empty=_("No orders were completed in the last hour."))
    return Section(
        title,
        [
            Tile(_("median (p50)"), duration(float(row["p50"])), done),
            Tile(_("95th percentile (p95)"), duration(float(row["p95"])), done),
            Tile(_("orders completed"), _count(row["orders"]), done),
        ],
    )


MOVES = {
    ("deposit", "in"): _("deposited"),
    ("charge", "in"): _("paid through gateways"),
    ("charge", "within"): _("paid from accounts"),
    ("refund", "out"): _("refunded through gateways"),
    ("refund", "within"): _("refunded to accounts"),
    ("correction", "within"): _("corrected"),
    ("dispute", "within"): _("disputed"),
    ("dispute", "out"): _("disputed"),
}


def _money(rows: list[dict[str, Any]] | None) -> Section:
    title = _("Money, last 24 hours")
    if rows is None:
        return Section(title, (), empty=NOT_REACHABLE)
    tiles = []
    for currency in sorted({row["currency"] for row in rows}):
        for direction, label in (("in", _("in")), ("out", _("out"))):
            amount = sum(
                int(row["amount"]) for row in rows if (row["currency"], row["direction"]) == (currency, direction)
            )
            url = _entries(currency, direction=direction)
            tiles.append(Tile(label, display.money_text(amount, currency), url, first=direction == "in"))
        for row in rows:
            if row["currency"] == currency:
                url = _entries(currency, direction=row["direction"], kind__exact=row["kind"])
                label = MOVES.get((row["kind"], row["direction"])) or Entry.Kind(row["kind"]).label
                tiles.append(Tile(label, display.money_text(int(row["amount"]), currency), url))
    note = _newest(sum(row["entries"] for row in rows))
    return Section(title, tiles, empty=_("No money has moved in the last 24 hours."), note=note)


def _entries(currency: str, **query: str) -> str:
    return display.list_url("payments", "entry", urlencode({"age": "day", **query, "currency": currency}))


def _outboxes(taken: readings.Taken) -> Section:
    found = [row for row in taken.rows if "outbox_service_pending" in row]
    tiles = [
        Tile(
            row["service"],
            _count(row["outbox_service_pending"]),
            display.list_url(row["service"], "outgoing", "sending=due"),
            "bad" if row["outbox_oldest_seconds"] > 30 else "good",
            _g("oldest %(age)s") % {"age": duration(float(row["outbox_oldest_seconds"]))}
            if row["outbox_service_pending"]
            else _("nothing is waiting"),
        )
        for row in found
    ]
    title = _("Messages due but not sent")
    return Section(title, [*tiles, *_lost(taken)], empty=NOT_REACHABLE, permission="orders.view_outgoing")


def _dead(taken: readings.Taken) -> Section:
    tiles = [
        Tile(
            row["service"],
            _count(row["dead_letters"]),
            display.list_url(row["service"], "deadletter", f"status__exact=dead&q={row['fingerprint']}"),
            "bad",
            f"{row['type'] or '?'}: {reasons.in_words(row['reason'])}",
        )
        for row in taken.rows
        if "dead_letters" in row
    ]
    empty = _("None: every message has been handled.")
    return Section(_("Dead letters"), [*tiles, *_lost(taken)], empty=empty, permission="orders.view_deadletter")


def _count(number: int) -> str:
    return display.number_text(number) + ("+" if number == 10_000 else "")
