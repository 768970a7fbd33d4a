"""`make screenshots`: the pictures of the documentation, taken of the running system."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from orders_project.tests.browser import browser
from orders_project.tests.running_system import PROJECT, RunningSystem

WIDTH, HEIGHT = 1280, 860
PHONE = {"width": 390, "height": 844}


@dataclass(frozen=True)
class Shot:
    """A picture: of which page, as whose browser shows it."""

    name: str
    path: str  # {stuck} is the id of an order that waits
    full: bool = False  # down to the end of the page
    viewport: dict[str, int] = field(default_factory=lambda: {"width": WIDTH, "height": HEIGHT})
    locale: str = "en"
    color_scheme: str = "light"


DASHBOARD, ORDER, DEAD_LETTERS = "/admin/", "/admin/orders/order/{stuck}/change/", "/admin/dead-letters/"
SHOTS = (
    Shot("dashboard", DASHBOARD),
    Shot("order", ORDER, full=True),
    Shot("dead-letters", DEAD_LETTERS),
    Shot("dashboard-dark", DASHBOARD, color_scheme="dark"),
    Shot("dashboard-phone", DASHBOARD, viewport=PHONE),
    Shot("order-phone", ORDER, viewport=PHONE),
    Shot("dashboard-ru", DASHBOARD, locale="ru"),
    Shot("order-ru", ORDER, full=True, locale="ru"),
    Shot("dead-letters-ru", DEAD_LETTERS, locale="ru"),
)


def take(folder: Path, *, only: str = "") -> list[Path]:
    """Start everything, give it something to show, and take the pictures into this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    with RunningSystem() as system, browser() as chromium:
        stuck = furnish(system)
        for shot in SHOTS:
            if only in shot.name:
                taken.append(folder / f"{shot.name}.png")
                page = chromium.new_page(
                    viewport=shot.viewport, locale=shot.locale, color_scheme=shot.color_scheme,
                    timezone_id="Europe/Berlin",
                )  # fmt: skip
                arrive(page, system)
                enter(page, system)
                page.goto(system.url(shot.path.format(stuck=stuck)))
                page.screenshot(path=taken[-1], full_page=shot.full)
                page.close()
    return taken


def arrive(page: Any, system: RunningSystem) -> None:
    """Come to the back office for the first time: its page loads once more, with the times of the browser's zone."""
    page.goto(system.url("/admin/login/"))
    page.wait_for_selector("#zone:not(:text-is('UTC'))")


def enter(page: Any, system: RunningSystem) -> None:
    """Log in as the admin of the demo."""
    page.goto(system.url("/admin/"))
    log_in(page, "admin", (system.home / "password").read_text())


def log_in(page: Any, name: str, password: str) -> None:
    """Fill in the form of the page, and wait for the page that it leads to."""
    page.fill("#id_username", name)
    page.fill("#id_password", password)
    with page.expect_navigation(url=lambda url: "/login/" not in url):
        page.press("#id_password", "Enter")


def furnish(system: RunningSystem) -> str:
    """Something to look at: orders of every fate, dead letters, an order that waits. The id of that one."""
    system.start_all()
    system.manage("load_demo", "--password-file", str(system.home / "password"))
    wanted = [("demo-rich", 12_50), ("demo-rich", 99), ("demo-poor", 5000), ("nobody", 3)]
    placed = [place(system, user_id=user, amount=amount / 100) for _ in range(6) for user, amount in wanted]
    system.until(lambda: all(status_of(system, one) in ("done", "failed", "canceled") for one in placed))
    # The oldest of them as if it had been placed through the day: the chart has 24 bars.
    system.query(
        "orders",
        "UPDATE orders_order placed SET created_at = created_at - back, updated_at = updated_at - back"
        " FROM (SELECT order_id, random() * interval '20 hours' AS back FROM orders_order WHERE random() < 0.7) moved"
        " WHERE moved.order_id = placed.order_id",
    )
    say_the_impossible(system, *placed[:5])
    answered = (
        "SELECT message_id FROM outbox_deadletter UNION ALL"
        " SELECT message_id FROM outbox_incomingmessage WHERE type = 'processing.refused'"
    )
    system.until(lambda: len(system.query("orders", answered)) == 5)
    system.stop("processing")
    waiting = str(place(system, user_id="demo-rich", amount=42))
    sent = "SELECT published_at FROM outbox_outgoingmessage WHERE type = 'processing.process' AND subject = %s"
    system.until(lambda: any(at for (at,) in system.query("orders", sent, waiting)))
    return waiting


def say_the_impossible(system: RunningSystem, *order_ids: str) -> None:
    """Let processing refuse orders that have ended: messages that cannot be handled."""
    system.manage(
        "shell", "-v", "0", "-c",
        "from django.db import transaction\n"
        "from processing.messages import ProcessingRefused\n"
        "from processing.models import Outgoing\n"
        "with transaction.atomic(using='processing'):\n"
        f"    Outgoing.post(*[ProcessingRefused(order_id=o, reason='fraud_check') for o in {order_ids!r}])\n",
    )  # fmt: skip


def place(system: RunningSystem, **order: Any) -> str:
    """Place an order by its API; its id."""
    answer = requests.post(system.url("/orders"), json={"description": "A lamp", **order}, timeout=60)
    answer.raise_for_status()
    return str(answer.json()["order_id"])


def status_of(system: RunningSystem, order_id: str) -> str:
    """Where an order stands."""
    return str(requests.get(system.url(f"/orders/{order_id}"), timeout=60).json()["status"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=PROJECT / "docs" / "images")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    for path in take(arguments.into, only=arguments.only):
        print(path)
