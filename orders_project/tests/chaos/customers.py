"""
Customers who place orders at a steady rate, whether or not the system keeps up, and remember whatever they were told.

Each request is decided by the seed. One without an answer is sent again under its `Idempotency-Key`, as a client does;
but some go away for good when they are not answered.
"""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import requests

from orders_project.tests.running_system import RunningSystem

THREADS = 64
GIVES_UP = 180.0  # seconds
ANSWERED_IN = 20.0  # seconds in which a request is answered, or it is sent again
USERS, PRODUCTS = 8, 4
STOCK, FEW = 100_000, 15
PRICE = 10_00
DEPOSIT = 1_000_000_00
ADDED = 1_000_00  # is put on an account later on, and a minor unit more for each customer: so no two are alike


@dataclass(frozen=True)
class Seen:
    """What a read of an order said, and when it was asked and answered."""

    asked: float
    answered: float
    status: str
    version: int


@dataclass
class Memory:
    """What all customers were told."""

    by_key: dict[str, set[str]] = field(default_factory=dict)  # the orders that were the answer under each key
    requests: dict[str, dict[str, Any]] = field(default_factory=dict)  # for an order, by key
    accepted: dict[str, float] = field(default_factory=dict)  # when, in seconds of time.time()
    seen: dict[str, list[Seen]] = field(default_factory=dict)
    deposited: dict[int, bool] = field(default_factory=dict)  # by amount: whether it was answered that it is there
    refunds: dict[str, int] = field(default_factory=dict)  # what was asked to go back, by order
    forgotten: list[str] = field(default_factory=list)  # accepted orders that were unknown when they were asked for
    odd: list[str] = field(default_factory=list)  # answers that no customer may get
    refused: int = 0
    unanswered: int = 0  # requests that were sent again until it was too late
    left: int = 0  # customers who went away
    sent: int = 0


class Customers:
    """They shop from `start` to `stop`; what they know is in `memory`."""

    def __init__(self, system: RunningSystem, *, seed: int, rate: float) -> None:
        """:param rate: orders a second"""
        self.memory, self.rate = Memory(), rate
        self._system = system
        self._chance = random.Random(seed)
        self._lock, self._end = threading.Lock(), threading.Event()
        self._pool = ThreadPoolExecutor(THREADS, "customer")
        self._thread = threading.Thread(target=self._come, name="customers", daemon=True)
        self.products: list[str] = []

    def prepare(self) -> None:
        """Make products and accounts; nothing is broken yet."""
        admin = {"X-Admin-Secret": "dev-admin-secret"}
        for number in range(PRODUCTS + 1):
            new = {"name": f"p{number}", "price": PRICE / 100, "stock": STOCK if number < PRODUCTS else FEW}
            answer = requests.post(self._system.url("/admin/products"), json=new, headers=admin, timeout=60)
            self.products.append(answer.json()["product_id"])
        for number in range(USERS):
            requests.post(self._system.url(f"/accounts?user_id=u{number}"), timeout=60).raise_for_status()
            deposit = {"amount": DEPOSIT / 100}
            requests.post(self._system.url(f"/accounts/u{number}/deposit"), json=deposit, timeout=60).raise_for_status()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let nobody come any more, send away who still waits in line, and wait until the others are answered."""
        self._end.set()
        self._thread.join()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _come(self) -> None:
        began = time.monotonic()
        while not self._end.wait(max(0.0, began + self.memory.sent / self.rate - time.monotonic())):
            self.memory.sent += 1
            self._pool.submit(self._shop, self.memory.sent, random.Random(self._chance.random()))

    def _shop(self, number: int, chance: random.Random) -> None:
        try:
            self._buy(number, chance)
        except Exception as error:
            self._note(self.memory.odd, f"customer {number}: {error!r}")

    def _buy(self, number: int, chance: random.Random) -> None:
        key = f"key-{number}"
        order = self._order(number, chance)
        with self._lock:
            self.memory.requests[key] = order
        if chance.random() < 0.2:
            self._deposit(number, chance)
        repeats = chance.random() > 0.25
        if repeats and chance.random() < 0.15:
            self._beside(self._place, key, order)
        order_id = self._place(key, order, repeats=repeats)
        if order_id is None:
            return
        if chance.random() < 0.3:
            self._place(key, order)
        cancels, refunds = chance.random(), chance.random() < 0.5
        if cancels < 0.08:
            self._ask("POST", f"/orders/{order_id}/cancel")
        for pause in (0.2, 0.5, 1.0, 2.0, 4.0, 8.0):
            status = self._look(order_id)
            if cancels > 0.8 and status == "paid":  # what follows from it is on its way
                self._ask("POST", f"/orders/{order_id}/cancel")
            if status in ("done", "failed", "canceled") or self._end.wait(pause):
                break
        if refunds and self._look(order_id) == "done":
            self._refund(order_id, key, chance)
        self._look(order_id)

    def repeat(self) -> None:
        """Send each request for an order that was accepted once more, as clients do that are not sure."""
        for key in sorted(self.memory.by_key):
            self._place(key, self.memory.requests[key])

    def _deposit(self, number: int, chance: random.Random) -> None:
        amount = ADDED + number
        with self._lock:
            self.memory.deposited[amount] = False
        path, headers = f"/accounts/u{number % USERS}/deposit", {"Idempotency-Key": f"in-{number}"}
        if chance.random() < 0.3:
            self._beside(self._ask, "POST", path, json={"amount": amount / 100}, headers=headers)
        if self._is_done(self._ask("POST", path, json={"amount": amount / 100}, headers=headers)):
            with self._lock:
                self.memory.deposited[amount] = True

    def _refund(self, order_id: str, key: str, chance: random.Random) -> None:
        amount = chance.choice((100, 250, 10_00))
        with self._lock:
            self.memory.refunds[order_id] = amount
        request: dict[str, Any] = {"json": {"amount": amount / 100}, "headers": {"Idempotency-Key": f"re-{key}"}}
        if chance.random() < 0.3:
            self._beside(self._ask, "POST", f"/orders/{order_id}/refunds", **request)
        self._is_done(self._ask("POST", f"/orders/{order_id}/refunds", **request))

    def _is_done(self, answer: requests.Response | None) -> bool:
        """Whether it was answered that this is done. Another answer is noted: nothing is wrong with these requests."""
        if answer is not None and not answer.ok:
            self._note(self.memory.odd, f"{answer.request.url}: {answer.status_code} {answer.text[:200]}")
        return answer is not None and answer.ok

    def _beside(self, ask: Callable[..., object], *request: Any, **more: Any) -> None:
        """Send a request as well that is sent again at once, as by a proxy whose timeout is short."""
        with suppress(RuntimeError):  # the last ones come alone
            self._pool.submit(ask, *request, **more)

    def _order(self, number: int, chance: random.Random) -> dict[str, Any]:
        order: dict[str, Any] = {"user_id": f"u{chance.randrange(USERS)}", "description": f"order-of-key-{number}"}
        order["payment_method"] = chance.choice(("account", "gateway"))
        if chance.random() < 0.25:  # for something that is not in the catalogue
            return order | {"amount": PRICE / 100}
        basket = chance.sample(self.products[:-1], chance.choice((1, 2, 3, 4)))
        if chance.random() < 0.05:
            basket = [self.products[-1]]  # there are few
        order["items"] = [{"product_id": product, "quantity": chance.choice((1, 1, 2))} for product in basket]
        return order

    def _place(self, key: str, order: dict[str, Any], *, repeats: bool = True) -> str | None:
        """Place an order, once however often it takes; its id if it was accepted."""
        answer = self._ask("POST", "/orders", repeats=repeats, json=order, headers={"Idempotency-Key": key})
        if answer is None or answer.status_code not in (200, 201):
            if answer is not None and (answer.status_code != 409 or answer.json()["code"] != "insufficient_stock"):
                self._note(self.memory.odd, f"{key}: {answer.status_code} {answer.text[:200]}")
            self.memory.refused += answer is not None
            return None
        order_id = str(answer.json()["order_id"])
        with self._lock:
            self.memory.by_key.setdefault(key, set()).add(order_id)
            self.memory.accepted.setdefault(order_id, time.time())
        return order_id

    def _look(self, order_id: str) -> str:
        asked = time.monotonic()
        try:
            answer = requests.get(self._system.url(f"/orders/{order_id}"), timeout=ANSWERED_IN)
        except requests.RequestException:
            return ""
        if answer.status_code == 404:
            self._note(self.memory.forgotten, order_id)
        if not answer.ok:
            return ""
        content = answer.json()
        seen = Seen(asked, time.monotonic(), content["status"], content["version"])
        with self._lock:
            self.memory.seen.setdefault(order_id, []).append(seen)
        return seen.status

    def _ask(self, method: str, path: str, *, repeats: bool = True, **request: Any) -> requests.Response | None:
        """Send a request, again while it is unanswered or refused only for now; once unless it `repeats`."""
        until, pause = time.monotonic() + GIVES_UP, 0.2
        while time.monotonic() < until:
            with suppress(requests.RequestException):
                answer = requests.request(method, self._system.url(path), timeout=ANSWERED_IN, **request)
                if answer.status_code < 500 and answer.status_code != 429 and not _is_busy(answer):
                    return answer
            if not repeats:
                with self._lock:
                    self.memory.left += 1
                return None
            time.sleep(pause)
            pause = min(pause * 2, 3.0)
        with self._lock:
            self.memory.unanswered += 1
        return None

    def _note(self, notes: list[str], text: str) -> None:
        with self._lock:
            notes.append(text)


def _is_busy(answer: requests.Response) -> bool:
    return answer.status_code == 409 and answer.json().get("code") in ("idempotency_key_in_use", "placed_too_slowly")
