"""The back office in a real browser, on the running system: every page, no error, no barrier."""

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from orders_project.tests import screenshots
from orders_project.tests.operators import Operator
from orders_project.tests.running_system import RunningSystem

pytestmark = pytest.mark.processes


def pages_from(user: Operator, path: str) -> list[str]:
    """Where a page's links lead inside of the back office."""
    user.open(path)
    links = user.page.eval_on_selector_all(
        "a[href]", "all => all.map(a => new URL(a.getAttribute('href'), location.href).href)"
    )
    here = [urlsplit(link) for link in links]
    return [f"{one.path}?{one.query}" if one.query else one.path for one in here if one.path.startswith("/admin/")]


def test_every_page_is_walked(user: Operator) -> None:
    seen: dict[str, str] = {}
    waiting = ["/admin/"]
    while waiting:
        path = waiting.pop(0)
        # One page of each kind: rows and filters of one list look alike.
        kind = re.sub(r"/[^/]*\d[^/]*/", "/#/", re.sub(r"\?.*", "?", path))
        if kind in seen or "logout" in path or "jsi18n" in path:
            continue
        seen[kind] = path
        waiting += pages_from(user, path)
        user.is_well()
    assert len(seen) > 60, sorted(seen)
    for needed in ("/admin/orders/order/#/change/", "/admin/orders/order/#/do/resolve/", "/admin/dead-letters/"):
        assert needed in seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_stands_in_the_way(
    chromium: Any, furnished: tuple[RunningSystem, str], scheme: str, width: int
) -> None:
    system, waiting = furnished
    viewport = {"width": width, "height": 800}
    user = Operator(
        chromium, system, color_scheme=scheme, viewport=viewport, bypass_csp=True
    )  # axe writes inline styles
    user.context.add_init_script("window.setInterval = () => 0")  # the dashboard stays as it is while axe looks at it
    user.open("/admin/login/")
    barriers = {"login": user.barriers()}
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
    ):
        user.open(path)
        barriers[path] = user.barriers()
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
