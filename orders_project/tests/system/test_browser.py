"""The back office in a real browser, on the running system: every page, no error, no barrier."""

import re
from html import unescape
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
import requests

from orders_project.tests import screenshots
from orders_project.tests.operators import COLORS, Operator
from orders_project.tests.running_system import RunningSystem

pytestmark = pytest.mark.processes


def pages_from(user: Operator, path: str) -> list[str]:
    """Where a page's links lead inside of the back office."""
    answer = user.context.request.get(user.system.url(path))
    assert answer.ok, f"{path}: {answer.status}"
    links = re.findall(r'<a\s[^>]*?href="([^"]*)"', answer.text())
    here = [urlsplit(urljoin(answer.url, unescape(link))) for link in links]
    return [f"{one.path}?{one.query}" if one.query else one.path for one in here if one.path.startswith("/admin/")]


def shape_of(kind: str) -> str:
    """Pages of the same shape are made by the same template, for whichever table."""
    return re.sub(r"^/admin/\w+/\w+/", "/admin/table/", kind)


def test_every_page_is_walked(user: Operator) -> None:
    """One page of each kind answers; one of each shape is looked at in the browser."""
    seen: dict[str, str] = {}
    shapes: set[str] = set()
    waiting = ["/admin/"]
    while waiting:
        path = waiting.pop(0)
        # One page of each kind: rows and filters of one list look alike.
        path = re.sub(r"\?_changelist_filters=.*", "", path)  # where from: the page is the same without
        kind = re.sub(r"/[^/]*\d[^/]*/", "/#/", re.sub(r"\?.*", "?", path))
        if kind in seen or "logout" in path or "jsi18n" in path:
            continue
        seen[kind] = path
        waiting += pages_from(user, path)
        if shape_of(kind) not in shapes:
            shapes.add(shape_of(kind))
            user.open(path)
            user.is_well()
            user.looks_well()
    assert len(seen) > 60, sorted(seen)
    for needed in ("/admin/orders/order/#/change/", "/admin/orders/order/#/do/resolve/", "/admin/dead-letters/"):
        assert needed in seen
        assert shape_of(needed) in shapes


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_stands_in_the_way(chromium: Any, furnished: tuple[RunningSystem, str], width: int) -> None:
    """Neither by day, nor in the dark, where only the colors are others: they are the same at any width."""
    system, waiting = furnished
    user = Operator(
        chromium, system, color_scheme="light", viewport={"width": width, "height": 800}, bypass_csp=True
    )  # axe writes inline styles
    user.context.add_init_script("window.setInterval = () => 0")  # the dashboard stays as it is while axe looks at it

    def barriers_by_day_and_in_the_dark() -> list[str]:
        by_day = user.barriers()
        if width < 1280:
            return by_day
        user.page.emulate_media(color_scheme="dark")
        in_the_dark = user.barriers(COLORS)
        user.page.emulate_media(color_scheme="light")
        return by_day + in_the_dark

    user.open("/admin/login/")
    barriers = {"login": barriers_by_day_and_in_the_dark()}
    screenshots.enter(user.page, system)
    for path in (
        "/admin/",
        "/admin/orders/order/",
        "/admin/processing/product/",
        "/admin/payments/account/",
        f"/admin/orders/order/{waiting}/change/",
        f"/admin/orders/order/{waiting}/do/resolve/",
        "/admin/dead-letters/",
        "/admin/second-factor/",
        "/admin/auth/user/add/",
        "/asyncapi",
    ):
        user.open(path)
        barriers[path] = barriers_by_day_and_in_the_dark()
        wider = user.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wider <= 0, f"{path} is {wider} pixels wider than the screen"
    user.context.close()
    met = [f"{path} {barrier}" for path, found in barriers.items() for barrier in found]
    assert not met, "\n".join(met)


def test_times_are_the_viewers(user: Operator) -> None:
    user.open("/admin/")
    assert user.page.inner_text("#zone") == "Asia/Tokyo"


def test_works_by_keyboard_and_in_russian(user: Operator) -> None:
    user.open("/admin/")
    user.page.keyboard.press("Tab")
    assert user.page.evaluate("document.activeElement.className") == "skip-to-content-link"
    user.follow("button[lang=ru]")
    assert user.page.inner_text("h1") == "Сводка"
    user.follow("button[lang=en]")
    user.is_well()


def test_the_dashboard_refreshes_itself(user: Operator) -> None:
    user.open("/admin/")
    before = user.page.get_attribute(".as-of time", "datetime")
    fresh = f".as-of time:not([datetime={before!r}])"  # a function to wait for would need the policy to allow eval
    user.page.wait_for_selector(fresh)
    user.is_well()


def test_the_login_is_the_admins_own(furnished: tuple[RunningSystem, str]) -> None:
    answer = requests.get(furnished[0].url("/admin/orders/order/"), timeout=60, allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"][:13]) == (302, "/admin/login/")
