"""A running system with customers who keep coming while servers fail, and what is found when all is over."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Self
from uuid import uuid4

import requests

from orders_project.embedded import processes, variable
from orders_project.embedded.services import DATABASES, Services

from .chaos import checker
from .chaos.checker import Finding, Records
from .chaos.customers import Customers
from .running_system import RunningSystem

SOON = 30.0  # seconds from a fault until orders are done again, on a machine that has nothing else to do
SLOW = 4  # times as long where it has
TIMEOUT = 2 * SOON * SLOW
SETTINGS = {
    "HOLD_TTL_SECONDS": "45", "PAYMENT_TIMEOUT_SECONDS": "40", "PROCESSING_TIMEOUT_SECONDS": "20",
    "RATE_LIMIT_ORDERS_PER_MINUTE": "0", "GATEWAY_READ_TIMEOUT": "5", "REFUND_APPROVAL_ABOVE": "100000",
}  # fmt: skip


class UnderLoad:
    """The processes run and customers come on entering; `findings` sends them away and says what is wrong."""

    def __init__(
        self, given: Services, *, rate: float, seed: int = 1, settings: Mapping[str, str] | None = None
    ) -> None:
        """
        :param given: the servers that will fail
        :param rate: orders a second, whether or not the system keeps up
        """
        self._port = processes.free_port()
        gateway = {"FAKE_GATEWAY_URL": f"http://127.0.0.1:{self._port}"}
        self.system = RunningSystem(SETTINGS | gateway | dict(settings or {}), given=given)
        self.system.commands["gateway"] = ["manage.py", "fake_gateway", "--port", str(self._port)]
        self.customers = Customers(self.system, seed=seed, rate=rate)
        self._end = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.enter_context(self.system)
            self.system.start_all()
            self.system.until(lambda: processes.answers(self._port))
            self.customers.prepare()
            self.customers.start()
            undo.callback(self.customers.stop)
            urls = {name: self.system.env[variable(name)] for name in DATABASES}
            self.records = Records(
                urls, gateway=f"http://127.0.0.1:{self._port}", memory=self.customers.memory, log=None
            )
            self._end = undo.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.close()

    def serves_soon_after(self, fault: float, name: str) -> None:
        """
        Place an order, wait until it is done, and say how many seconds that was after the fault, which still lasts.

        :param fault: when it began, in seconds of `time.monotonic()`
        """
        key, found = str(uuid4()), {"order_id": "", "status": ""}
        order = {"user_id": "u0", "amount": 1, "description": f"order-of-{key}", "payment_method": "account"}

        def is_done() -> bool:
            try:
                if not found["order_id"]:
                    headers = {"Idempotency-Key": key}
                    answer = requests.post(self.system.url("/orders"), json=order, headers=headers, timeout=20)
                else:
                    answer = requests.get(self.system.url(f"/orders/{found['order_id']}"), timeout=20)
            except requests.RequestException:
                return False
            if answer.ok:
                found.update(answer.json())
            return found["status"] == "done"

        self.system.until(is_done, timeout=TIMEOUT)
        took = time.monotonic() - fault
        print(f"{name}: an order that was placed afterwards was done after {took:.1f} s")
        assert took < SOON * SLOW

    def findings(self) -> list[Finding]:
        """Let the last customers be answered, wait until nothing is on its way, and say what is wrong."""
        self.customers.stop()
        self.system.until(self.records.is_quiet, timeout=TIMEOUT)
        return checker.check(self.records)
