"""
One running system for all tests of this folder, which therefore stay together, in the order of their names.

Each file says by a fixture which of its processes run: `web`, `everything` or `furnished`.
"""

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from orders_project.embedded import CannotRun, processes
from orders_project.tests import screenshots
from orders_project.tests.browser import browser
from orders_project.tests.desk import Desk
from orders_project.tests.house import House


@pytest.fixture(scope="package")
def house() -> Iterator[House]:
    """The whole system as real processes, and a fake payment gateway; nothing runs before a test asks for it."""
    port = processes.free_port()
    with House(FAKE_GATEWAY_URL=f"http://127.0.0.1:{port}") as standing:
        standing.commands["gateway"] = ["manage.py", "fake_gateway", "--port", str(port)]
        yield standing


@pytest.fixture(scope="package")
def demo(house: House) -> House:
    """The system with demo data, whatever of it runs."""
    house.manage("load_demo", "--password-file", str(house.home / "password"))
    return house


def run_only(house: House, *names: str) -> None:
    """Start and stop processes until these run, and no others."""
    others = set(house.running) - set(names)
    for name in others:
        house.running[name].terminate()  # all at once: each takes its time
    for name in others:
        house.stop(name)
    house.start(*(name for name in names if name not in house.running))
    if "gateway" in names:
        port = urlsplit(house.env["FAKE_GATEWAY_URL"]).port
        house.until(lambda: processes.answers(port or 80))


@pytest.fixture(scope="module")
def web(house: House) -> House:
    """The system with its web alone: orders stay as they were placed."""
    run_only(house, "web")
    return house


@pytest.fixture(scope="module")
def everything(demo: House) -> House:
    """The system with demo data, and all of its processes."""
    run_only(demo, *demo.commands)
    return demo


@pytest.fixture
def hushed(house: House) -> Iterator[None]:
    """Nobody who has registered in a test is told of the orders of later ones."""
    yield
    house.query("orders", "UPDATE orders_webhookendpoint SET is_active = false")


@pytest.fixture(scope="package")
def stuck(house: House) -> str:
    """The system gets something to show; the id of an order that waits, because processing is down."""
    return screenshots.furnish(house)


@pytest.fixture(scope="module")
def furnished(house: House, stuck: str) -> tuple[House, str]:
    """The running system with something in it, and an order that waits because processing is down."""
    run_only(house, *(name for name in house.commands if name != "processing"))
    return house, stuck


@pytest.fixture
def waiting(stuck: str) -> str:
    return stuck


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    try:
        with browser() as running:
            yield running
    except CannotRun as refusal:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs a browser: {refusal}")
        pytest.skip(f"NO BROWSER HERE, the back office is not tested: {refusal}")


@pytest.fixture(scope="module")
def desk(chromium: Any, furnished: tuple[House, str]) -> Iterator[Desk]:
    """The admin of the demo at a browser."""
    house, _ = furnished
    with Desk(chromium, house) as found:
        screenshots.enter(found.page, house)
        yield found


@pytest.fixture(scope="package")
def manager(demo: House) -> tuple[str, str]:
    """The name and the password of a second person."""
    code = (
        "from django.contrib.auth.models import *\n"
        "bob = User.objects.create_user('bob', password='a long secret', is_staff=True)\n"
        "bob.groups.add(Group.objects.get(name='manager'))\n"
    )
    demo.manage("shell", "-v", "0", "-c", code)
    return "bob", "a long secret"


@pytest.fixture(scope="module")
def bob(desk: Desk, chromium: Any, manager: tuple[str, str]) -> Iterator[Desk]:
    """A second person: a manager at a browser of his own."""
    with Desk(chromium, desk.house) as found:
        found.open("/admin/login/?next=/admin/orders_project/approval/")
        screenshots.log_in(found.page, *manager)
        yield found


@pytest.fixture(scope="module")
def on_record(house: House) -> Any:
    """Tells which verbs have been written into the log since this file began."""
    newest = "SELECT coalesce(max(id), 0) FROM django_admin_log"
    ((before,),) = house.query("default", newest)

    def said() -> str:
        written = house.query("default", "SELECT change_message FROM django_admin_log WHERE id > %s", before)
        return " ".join(message for (message,) in written)

    return said
