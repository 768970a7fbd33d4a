"""The back office in a real browser, on the running system: every page, no error, no barrier."""

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from orders_project.tests import screenshots
from orders_project.tests.desk import Desk
from orders_project.tests.house import House

pytestmark = pytest.mark.processes


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
    desk.context.add_init_script("window.setInterval = () => 0")  # the dashboard stays as it is while axe looks at it
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


def test_works_by_keyboard_and_in_russian(desk: Desk) -> None:
    desk.open("/admin/")
    desk.page.keyboard.press("Tab")
    assert desk.page.evaluate("document.activeElement.className") == "skip-to-content-link"
    desk.follow("button[lang=ru]")
    assert desk.page.inner_text("h1") == "Сводка"
    desk.follow("button[lang=en]")
    desk.is_well()


def test_the_dashboard_refreshes_itself(desk: Desk) -> None:
    desk.open("/admin/")
    before = desk.page.get_attribute(".as-of time", "datetime")
    fresh = f".as-of time:not([datetime={before!r}])"  # a function to wait for would need the policy to allow eval
    desk.page.wait_for_selector(fresh)
    desk.is_well()


def test_the_login_is_the_admins_own(furnished: tuple[House, str]) -> None:
    answer = requests.get(furnished[0].url("/admin/orders/order/"), timeout=60, allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"][:13]) == (302, "/admin/login/")
