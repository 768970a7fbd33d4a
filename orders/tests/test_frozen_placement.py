"""An attempt that is frozen between its look and its hold, while another attempt places the same order."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.utils import timezone

from orders.models import Order, Outgoing
from outbox import clock
from processing import services as stock
from processing.messages import GiveBack
from processing.models import Hold

from .conftest import Shop

pytestmark = pytest.mark.usefixtures("unlimited")
really = pytest.mark.django_db(transaction=True, databases=["orders", "processing"])


def place(lamp: str, *, quantity: int = 1) -> Any:
    body = {
        "order_id": "ord-001",
        "user_email": "ann@example.com",
        "items": [{"product_id": lamp, "quantity": quantity}],
    }
    return Client().post("/orders", body, content_type="application/json")


class Frozen:
    """A placement in a thread that stops where it would hold its stock, until `resume`."""

    def __init__(self, place: Callable[[], Any]) -> None:
        self._stopped, self._resumed = threading.Event(), threading.Event()
        self._answers: list[Any] = []
        self._hold = stock.hold
        self._thread = threading.Thread(target=self._run, args=(place,))

    def _run(self, place: Callable[[], Any]) -> None:
        try:
            self._answers.append(place())
        finally:
            connections.close_all()

    def hold(self, **arguments: Any) -> Any:
        if threading.current_thread() is self._thread:
            self._stopped.set()
            assert self._resumed.wait(120)
        return self._hold(**arguments)

    def begin(self) -> None:
        self._thread.start()
        assert self._stopped.wait(120)

    def resume(self) -> Any:
        self._resumed.set()
        self._thread.join(120)
        return self._answers[0]


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch, lamp: str) -> Callable[..., Frozen]:
    def freeze(**more: Any) -> Frozen:
        frozen = Frozen(lambda: place(lamp, **more))
        monkeypatch.setattr(stock, "hold", frozen.hold)
        frozen.begin()
        return frozen

    return freeze


@really
def test_is_answered_with_the_order_that_stands(frozen: Any, shop: Shop, lamp: str) -> None:
    late = frozen()
    order = place(lamp)
    answer = late.resume()
    assert (order.status_code, answer.status_code) == (201, 200)
    assert answer.json() == order.json()
    assert not Outgoing.objects.filter(type=GiveBack.name).exists()
    held = Hold.objects.get()
    assert (held.status, held.pk) == ("held", Order.objects.get().hold_id)
    assert shop.stock(lamp) == (9, 1)


@really
def test_of_another_basket_is_refused(frozen: Any, shop: Shop, lamp: str) -> None:
    late = frozen(quantity=3)
    assert place(lamp).status_code == 201
    answer = late.resume()
    assert (answer.status_code, answer.json()["code"]) == (409, "held_otherwise")
    held = Hold.objects.get()
    assert (held.status, held.pk) == ("held", Order.objects.get().hold_id)
    assert shop.stock(lamp) == (9, 1)


@pytest.mark.django_db(transaction=True)
def test_gives_back_what_it_holds_after_the_order_has_ended(frozen: Any, shop: Shop, lamp: str, post: Any) -> None:
    late = frozen()
    assert place(lamp).status_code == 201
    stock.process(order_id="ord-001", hold_id=str(Order.objects.get().hold_id), refusal=None, now=timezone.now())
    assert late.resume().status_code == 200
    assert sorted(Hold.objects.values_list("status", flat=True)) == ["held", "sold"]
    post.run()
    assert sorted(Hold.objects.values_list("status", flat=True)) == ["released", "sold"]
    assert shop.stock(lamp) == (9, 0)


@pytest.mark.django_db
def test_that_took_half_of_the_hold_s_time_stores_no_order(
    shop: Shop, lamp: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hold may be given back before it would commit."""
    settings.HOLD_TTL, hold = timedelta(minutes=10), stock.hold

    def slowly(**arguments: Any) -> Any:
        later = timezone.now() + timedelta(seconds=301)
        monkeypatch.setattr(clock, "now", lambda using: later)
        return hold(**arguments)

    monkeypatch.setattr(stock, "hold", slowly)
    answer = place(lamp)
    assert (answer.status_code, answer.json()["code"], answer["Retry-After"]) == (503, "placed_too_slowly", "1")
    assert not Order.objects.exists()
    monkeypatch.undo()
    assert place(lamp).status_code == 201
    assert shop.stock(lamp) == (9, 1)
