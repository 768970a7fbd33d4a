"""
One running system for all tests of this folder, which therefore stay together, in the order of their names.

Each file says by a fixture which of its processes run: `web`, `everything` or `furnished`.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from orders_project.embedded import CannotRun, processes
from orders_project.embedded.services import Services
from orders_project.tests import screenshots
from orders_project.tests.browser import browser
from orders_project.tests.operators import Operator
from orders_project.tests.running_system import RunningSystem


@pytest.fixture(scope="package")
def system(given: Callable[[str], Services]) -> Iterator[RunningSystem]:
    """The whole system as real processes, and a fake payment gateway; nothing runs before a test asks for it."""
    port = processes.free_port()
    # An order that waits for processing in one test still waits in the last one.
    environment = {"FAKE_GATEWAY_URL": f"http://127.0.0.1:{port}", "PROCESSING_TIMEOUT_SECONDS": "7200"}
    with RunningSystem(environment, given=given("system")) as standing:
        standing.commands["gateway"] = ["manage.py", "fake_gateway", "--port", str(port)]
        yield standing


@pytest.fixture(scope="package")
def demo(system: RunningSystem) -> RunningSystem:
    """The system with demo data, whatever of it runs."""
    system.manage("load_demo", "--password-file", str(system.home / "password"))
    return system


def run_only(system: RunningSystem, *names: str) -> None:
    """Start and stop processes until these run, and no others."""
    others = set(system.running) - set(names)
    for name in others:
        system.running[name].terminate()  # all at once: each takes its time
    for name in others:
        system.stop(name)
    system.start(*(name for name in names if name not in system.running))
    if "gateway" in names:
        port = urlsplit(system.env["FAKE_GATEWAY_URL"]).port
        system.until(lambda: processes.answers(port or 80))


@pytest.fixture(scope="module")
def web(system: RunningSystem) -> RunningSystem:
    """The system with its web alone: orders stay as they were placed."""
    run_only(system, "web")
    return system


@pytest.fixture(scope="module")
def everything(demo: RunningSystem) -> RunningSystem:
    """The system with demo data, and all of its processes."""
    run_only(demo, *demo.commands)
    return demo


@pytest.fixture
def hushed(system: RunningSystem) -> Iterator[None]:
    """Nobody who has registered in a test is told of the orders of later ones."""
    yield
    system.query("orders", "UPDATE orders_webhookendpoint SET is_active = false")


@pytest.fixture(scope="package")
def stuck(system: RunningSystem) -> str:
    """The system gets something to show; the id of an order that waits, because processing is down."""
    return screenshots.furnish(system)


@pytest.fixture(scope="module")
def furnished(system: RunningSystem, stuck: str) -> tuple[RunningSystem, str]:
    """The running system with something in it, and an order that waits because processing is down."""
    run_only(system, *(name for name in system.commands if name != "processing"))
    return system, stuck


@pytest.fixture
def waiting(stuck: str) -> str:
    return stuck


@pytest.fixture(scope="package")
def chromium(system: RunningSystem) -> Iterator[Any]:
    """A browser, after the system has its databases: while one runs, Django uses none in this thread."""
    try:
        with browser() as running:
            yield running
    except CannotRun as refusal:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs a browser: {refusal}")
        pytest.skip(f"NO BROWSER HERE, the back office is not tested: {refusal}")


@pytest.fixture(scope="module")
def user(chromium: Any, furnished: tuple[RunningSystem, str]) -> Iterator[Operator]:
    """The admin of the demo at a browser."""
    system, _ = furnished
    with Operator(chromium, system) as found:
        screenshots.enter(found.page, system)
        yield found


@pytest.fixture(scope="package")
def manager(demo: RunningSystem) -> tuple[str, str]:
    """The name and the password of a second person."""
    code = (
        "from django.contrib.auth.models import *\n"
        "bob = User.objects.create_user('bob', password='a long secret', is_staff=True)\n"
        "bob.groups.add(Group.objects.get(name='manager'))\n"
    )
    demo.manage("shell", "-v", "0", "-c", code)
    return "bob", "a long secret"


@pytest.fixture(scope="module")
def bob(user: Operator, chromium: Any, manager: tuple[str, str]) -> Iterator[Operator]:
    """A second person: a manager at a browser of his own."""
    with Operator(chromium, user.system) as found:
        found.open("/admin/login/?next=/admin/orders_project/approval/")
        screenshots.log_in(found.page, *manager)
        yield found


@pytest.fixture(scope="module")
def on_record(system: RunningSystem) -> Any:
    """Tells which verbs have been written into the log since this file began."""
    newest = "SELECT coalesce(max(id), 0) FROM django_admin_log"
    ((before,),) = system.query("default", newest)

    def said() -> str:
        written = system.query("default", "SELECT change_message FROM django_admin_log WHERE id > %s", before)
        return " ".join(message for (message,) in written)

    return said
