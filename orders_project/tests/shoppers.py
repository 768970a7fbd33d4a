"""Customers of a running system who go on placing orders, each in another way, while it is being deployed."""

import itertools
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import requests

PATIENT = 120.0  # seconds in which a request is repeated
PAUSE = 0.5  # seconds between two orders


@dataclass
class Shoppers:
    """
    A thread that places orders until it is told to stop; `orders` are those that were accepted, by id.

    Whatever gets no answer (the process that had the request is gone) is sent again, as a client or a proxy does.
    """

    url: str
    tokens: list[str] = field(default_factory=list)
    product: str = ""
    orders: set[str] = field(default_factory=set)
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._shop, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def lamp(self) -> list[dict[str, Any]]:
        return [{"product_id": self.product, "quantity": 1}]

    def _shop(self) -> None:
        try:
            for number, buy in enumerate(itertools.cycle(self._ways())):
                if self._stop.wait(PAUSE):
                    return
                buy(number)
        except Exception as error:
            self.failed.append(repr(error))

    def _ways(self) -> Iterator[Callable[[int], object]]:
        yield self.pays_from_the_account
        yield self.pays_at_the_gateway
        yield self.names_the_order
        yield self.cancels
        yield self.is_served_by_both

    def pays_from_the_account(self, number: int) -> str:
        return self.place(user_id="ann", amount="2.50", description=f"order {number}")

    def pays_at_the_gateway(self, number: int) -> str:
        return self.place(user_email="ann@example.com", items=self.lamp)

    def names_the_order(self, number: int) -> None:
        """The same order under an id of the customer's, again and again: whoever answers knows it."""
        named = {"order_id": f"order-{number}", "user_id": "ann", "amount": "1.00", "description": "named"}
        answers = [self.ask("POST", "/orders", json=named).json() for _ in range(3)]
        assert {answer["order_id"] for answer in answers} == {named["order_id"]}, answers
        assert {answer["created_at"] for answer in answers} == {answers[0]["created_at"]}, answers
        self.orders.add(named["order_id"])

    def cancels(self, number: int) -> None:
        order_id = self.pays_at_the_gateway(number)
        self.cancel(order_id)

    def is_served_by_both(self, number: int) -> None:
        """The same request under one key: one order."""
        order = {"user_email": "bob@example.com", "items": self.lamp}
        key = {"Idempotency-Key": str(uuid.uuid4())}
        answers = [self.ask("POST", "/orders", json=order, headers=key).json() for _ in range(3)]
        assert {answer["order_id"] for answer in answers} == {answers[0]["order_id"]}, answers
        self.orders.add(answers[0]["order_id"])

    def place(self, **order: Any) -> str:
        """Place an order, once however often it takes; its id."""
        answer = self.ask("POST", "/orders", json=order, headers={"Idempotency-Key": str(uuid.uuid4())}).json()
        self.orders.add(answer["order_id"])
        return str(answer["order_id"])

    def cancel(self, order_id: str) -> None:
        answer = self.ask("POST", f"/orders/{order_id}/cancel", ok=(200, 202, 409))
        assert answer.status_code != 409 or answer.json()["code"] == "already_done", answer.text

    def ask(self, method: str, path: str, *, ok: tuple[int, ...] = (200, 201, 202), **request: Any) -> Any:
        """Send a request until it is answered; the answer must be one of these."""
        headers = {"Authorization": f"Bearer {random.choice(self.tokens)}"} | request.pop("headers", {})
        until = time.monotonic() + PATIENT
        while True:
            try:
                answer = requests.request(method, self.url + path, headers=headers, timeout=60, **request)
                if answer.status_code < 500:
                    break
            except requests.RequestException:
                if time.monotonic() > until:
                    raise
            assert time.monotonic() < until, f"{path} is not answered"
            time.sleep(0.05)
        assert answer.status_code in ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer
