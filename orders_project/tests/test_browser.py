"""The back office in a real browser, on the running system: every page, every verb, no error, no barrier."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from orders_project.embedded import CannotRun
from orders_project.tests import screenshots
from orders_project.tests.browser import browser
from orders_project.tests.house import House

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
RULES = """
() => axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
                         resultTypes: ["violations"]})
"""
WATCH = """
window.refused = [];
document.addEventListener("securitypolicyviolation", (e) => window.refused.push([e.violatedDirective, e.blockedURI]));
"""
REFUSED = "status of 422"
NASTY = "<img src=x onerror=alert(1)>"


class Desk:
    """An operator's browser that notes whatever goes wrong."""

    def __init__(self, chromium: Any, house: House, **context: Any) -> None:
        self.house = house
        self.context = chromium.new_context(timezone_id="Asia/Tokyo", locale="en", **context)
        self.context.add_init_script(WATCH)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", self._alarm)

    def _hear(self, said: Any) -> None:
        if said.type == "error" and REFUSED not in said.text:  # a form that is refused is no error of ours
            self.errors.append(f"{said.text} {said.location}")

    def _alarm(self, dialog: Any) -> None:
        self.errors.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def open(self, path: str) -> Any:
        answer = self.page.goto(self.house.url(path))
        assert answer.status < 400, f"{path}: {answer.status}"
        return answer

    def press(self, name: str) -> None:
        """Follow the verb of this name, on the page of a row or of a list."""
        self.page.get_by_role("link", name=name, exact=True).click()
        self.page.wait_for_load_state()

    def send(self, **fields: str) -> None:
        """Fill in the verb's form and send it."""
        for name, value in fields.items():
            self.page.fill(f"[name={name}]", value)
        self.page.click(".submit-row [type=submit]")
        self.page.wait_for_load_state()

    def told(self) -> str:
        return str(self.page.inner_text(".messagelist"))

    def is_well(self) -> None:
        """Nothing was written to the console and the security policy had nothing to refuse."""
        where = self.page.url
        assert not self.errors, f"{where}: {self.errors}"
        assert not self.page.evaluate("window.refused"), where

    def barriers(self) -> list[str]:
        """What stands in somebody's way on this page."""
        self.page.evaluate(AXE)
        return [
            f"{broken['id']}: {node['target']} {node['failureSummary'][:200]}"
            for broken in self.page.evaluate(RULES)["violations"]
            for node in broken["nodes"][:3]
        ]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    try:
        with browser() as running:
            yield running
    except CannotRun as refusal:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs a browser: {refusal}")
        pytest.skip(f"NO BROWSER HERE, the back office is not tested: {refusal}")


@pytest.fixture(scope="module")
def furnished() -> Iterator[tuple[House, str]]:
    """The running system with something in it, and an order that waits because processing is down."""
    with House() as house:
        yield house, screenshots.furnish(house)


@pytest.fixture(scope="module")
def desk(chromium: Any, furnished: tuple[House, str]) -> Desk:
    found = Desk(chromium, furnished[0])
    screenshots.enter(found.page, furnished[0])
    return found


@pytest.fixture
def waiting(furnished: tuple[House, str]) -> str:
    return furnished[1]


def pages_from(desk: Desk, path: str) -> list[str]:
    """Where a page's links lead inside of the back office."""
    desk.open(path)
    links = desk.page.eval_on_selector_all(
        "a[href]", "all => all.map(a => new URL(a.getAttribute('href'), location.href).href)"
    )
    here = [urlsplit(link) for link in links]
    return [f"{one.path}?{one.query}" if one.query else one.path for one in here if one.path.startswith("/admin/")]


def test_every_page_is_walked(desk: Desk) -> None:
    seen: dict[str, str] = {}
    waiting = ["/admin/"]
    while waiting:
        path = waiting.pop(0)
        # One page of each kind: rows and filters of one list look alike.
        kind = re.sub(r"/[^/]*\d[^/]*/", "/#/", re.sub(r"\?.*", "?", path))
        if kind in seen or "logout" in path or "jsi18n" in path:
            continue
        seen[kind] = path
        waiting += pages_from(desk, path)
        desk.is_well()
    assert len(seen) > 60, sorted(seen)
    for needed in ("/admin/orders/order/#/change/", "/admin/orders/order/#/do/resolve/", "/admin/dead-letters/"):
        assert needed in seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_stands_in_the_way(chromium: Any, furnished: tuple[House, str], scheme: str, width: int) -> None:
    house, waiting = furnished
    viewport = {"width": width, "height": 800}
    desk = Desk(chromium, house, color_scheme=scheme, viewport=viewport, bypass_csp=True)  # axe writes inline styles
    desk.open("/admin/login/")
    barriers = {"login": desk.barriers()}
    screenshots.enter(desk.page, house)
    for path in (
        "/admin/",
        "/admin/orders/order/",
        "/admin/processing/product/",
        "/admin/payments/account/",
        f"/admin/orders/order/{waiting}/change/",
        f"/admin/orders/order/{waiting}/do/resolve/",
        "/admin/dead-letters/",
    ):
        desk.open(path)
        barriers[path] = desk.barriers()
        wider = desk.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wider <= 0, f"{path} is {wider} pixels wider than the screen"
    desk.context.close()
    met = [f"{path} {barrier}" for path, found in barriers.items() for barrier in found]
    assert not met, "\n".join(met)


def test_times_are_the_viewers(desk: Desk) -> None:
    desk.open("/admin/")
    assert desk.page.inner_text("#zone") == "Asia/Tokyo"


def test_a_double_click_pays_once(desk: Desk) -> None:
    house = desk.house
    ((account,),) = house.query("payments", "SELECT id FROM payments_account WHERE user_id = 'demo-poor'")
    desk.open(f"/admin/payments/account/{account}/change/")
    ((before,),) = house.query("payments", "SELECT balance FROM payments_account WHERE id = %s", account)
    desk.press("Deposit")
    desk.page.fill("[name=amount]", "12,50")
    desk.page.fill("[name=reason]", f"for the poor {NASTY}")
    desk.page.dblclick(".submit-row [type=submit]")
    desk.page.wait_for_selector(".messagelist")
    ((after,),) = house.query("payments", "SELECT balance FROM payments_account WHERE id = %s", account)
    assert after - before == 12_50
    assert "for the poor" in desk.page.inner_text("#content")
    desk.press("Correct the balance")
    desk.send(amount="-0.50", reason="a fee")
    assert "corrected by -0.50 USD" in desk.told()
    desk.is_well()


def test_products_live(desk: Desk) -> None:
    desk.open("/admin/processing/product/")
    desk.press("Add a product")
    desk.send(name=NASTY, price="3", stock="1", sku="nasty")
    assert "is in the catalogue" in desk.told()
    desk.page.click("#result_list tbody tr:first-child th a")
    desk.press("Receive stock")
    desk.send(quantity="9", reason="delivery")
    desk.press("Correct the stock")
    desk.send(quantity="-2", reason="broken")
    desk.press("Edit")
    desk.send(price="4.50")
    rows = desk.house.query("processing", "SELECT price, available FROM processing_product WHERE sku = 'nasty'")
    assert rows == [(450, 8)]
    desk.is_well()


def test_dead_letters_are_previewed_replayed_and_discarded(desk: Desk) -> None:
    desk.open("/admin/dead-letters/")
    desk.page.get_by_role("link", name="See what a replay would do").first.click()
    assert "It would die of the same failure again" in desk.page.inner_text("#content")
    desk.press("Replay as a canary")
    desk.send()
    dead = "SELECT count(*) FROM outbox_deadletter WHERE status = 'dead'"
    replayed = "SELECT count(*) FROM outbox_deadletter WHERE status = 'replayed'"
    desk.house.until(lambda: desk.house.query("orders", replayed)[0][0] >= 1)
    ((before,),) = desk.house.query("orders", dead)
    desk.open("/admin/dead-letters/")
    desk.page.get_by_role("link", name=re.compile("^Replay \\(")).first.click()
    desk.send()
    desk.page.wait_for_selector(".errornote, .success", timeout=90_000)
    assert "canary died again" in desk.page.inner_text("#content")
    desk.house.until(lambda: desk.house.query("orders", dead)[0][0] == before)
    while desk.open("/admin/dead-letters/") and desk.page.query_selector("article.group"):
        desk.page.get_by_role("link", name=re.compile("^Discard \\(")).first.click()
        desk.send()
        desk.page.wait_for_selector(".success", timeout=60_000)
    assert desk.house.query("orders", dead) == [(0,)]
    assert "No dead letters" in desk.page.inner_text("#content")
    desk.is_well()


def test_an_order_is_helped_on_its_way(desk: Desk, waiting: str) -> None:
    path = f"/admin/orders/order/{waiting}/change/"
    desk.open(path)
    assert "is a worker of processing running?" in desk.page.inner_text(".stuck")
    desk.press("Retry the step")
    desk.send()
    assert "asked again: processing.process" in desk.told()
    desk.house.start("processing")
    desk.house.until(lambda: screenshots.status_of(desk.house, waiting) == "done")
    desk.open(path)
    assert "come to its end" in desk.page.inner_text(".stuck")
    desk.house.stop("payments")
    held = screenshots.place(desk.house, user_id="demo-rich", amount=7)
    desk.open(f"/admin/orders/order/{held}/change/")
    desk.press("Cancel")
    desk.send(reason=f"by phone {NASTY}")
    assert "on its way back" in desk.told()
    false_claim = screenshots.place(desk.house, user_id="demo-rich", amount=8)
    desk.open(f"/admin/orders/order/{false_claim}/change/")
    desk.press("Resolve with evidence")
    desk.page.select_option("[name=truth]", "payment.failed")
    desk.send(reason="ticket 12")
    desk.house.until(lambda: screenshots.status_of(desk.house, false_claim) == "canceled")
    desk.house.start("payments")
    desk.house.until(lambda: screenshots.status_of(desk.house, held) == "canceled")
    desk.is_well()


def test_a_second_person_approves(desk: Desk, chromium: Any) -> None:
    house = desk.house
    if "processing" in house.running:
        house.stop("processing")
    dear = screenshots.place(house, user_id="demo-rich", amount=1500)
    house.until(lambda: screenshots.status_of(house, dear) == "paid")
    desk.open(f"/admin/orders/order/{dear}/change/")
    desk.press("Compensate from here")
    desk.send(reason="fraud")
    assert "second person" in desk.told()
    desk.open(f"/admin/orders_project/approval/?q={dear}")
    desk.page.click("#result_list tbody tr:first-child th a")
    desk.press("Approve")
    desk.send()
    assert "you asked for it" in desk.page.inner_text("[role=alert]")
    code = "from django.contrib.auth.models import *; u = User.objects.create_user('bob', password='a long secret', is_staff=True); u.groups.add(Group.objects.get(name='manager'))"  # noqa: E501
    house.manage("shell", "-v", "0", "-c", code)
    bob = Desk(chromium, house)
    bob.open(f"/admin/login/?next=/admin/orders_project/approval/%3Fq={dear}")
    bob.page.fill("#id_username", "bob")
    bob.page.fill("#id_password", "a long secret")
    bob.page.press("#id_password", "Enter")
    bob.page.click("#result_list tbody tr:first-child th a")
    bob.press("Approve")
    bob.send()
    # Two letters wait for processing: process it, and release it. Whichever is handled first decides, and an acceptance
    # would end in "done"; so the processor refuses.
    house.start("processing", env={"PROCESSING_SUCCESS_RATE": "0"})
    house.until(lambda: screenshots.status_of(house, dear) == "canceled")
    bob.is_well()
    bob.context.close()


def test_works_by_keyboard_and_in_russian(desk: Desk) -> None:
    desk.open("/admin/")
    desk.page.keyboard.press("Tab")
    assert desk.page.evaluate("document.activeElement.className") == "skip-to-content-link"
    desk.page.click("button[lang=ru]")
    desk.page.wait_for_load_state()
    assert desk.page.inner_text("h1") == "Сводка"
    desk.page.click("button[lang=en]")
    desk.page.wait_for_load_state()
    desk.is_well()


def test_the_dashboard_refreshes_itself(desk: Desk) -> None:
    desk.open("/admin/")
    before = desk.page.get_attribute(".as-of time", "datetime")
    fresh = f".as-of time:not([datetime={before!r}])"  # a function to wait for would need the policy to allow eval
    desk.page.wait_for_selector(fresh, timeout=20_000)
    desk.is_well()


def test_every_verb_is_on_record(desk: Desk) -> None:
    written = desk.house.query("default", "SELECT change_message FROM django_admin_log")
    said = " ".join(message for (message,) in written)
    for verb in (
        "Deposit.", "Correct the balance.", "Add a product.", "Receive stock.", "Correct the stock.", "Edit.",
        "Replay as a canary.", "replay:", "discard:", "Retry the step.", "Cancel.", "Resolve with evidence.",
        "Compensate from here.", "Approve.",
    ):  # fmt: skip
        assert verb in said, f"{verb} is not in the log"


def test_the_login_is_the_admins_own(furnished: tuple[House, str]) -> None:
    answer = requests.get(furnished[0].url("/admin/orders/order/"), timeout=10, allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"][:13]) == (302, "/admin/login/")
