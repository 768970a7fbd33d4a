"""What a crash between the two commits of placing an order leaves behind is found and given back."""

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import transaction
from django.utils import timezone

from orders import services
from orders.models import Order
from orders_project.tests.carrier import Carrier
from orders_project.tests.invariants import broken, unfinished
from payments import services as money
from processing import services as stock
from processing.models import Hold, Product
from processing.tasks import expire_holds

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def clock() -> Iterator[Any]:
    with time_machine.travel(timezone.now(), tick=False) as travel:
        now = timezone.now()
        stock.make_product(name="Lamp", sku="lamp", price=1200, stock=3, actor="test", now=now)
        money.open_account(user_id="ann")
        money.deposit(user_id="ann", amount=5000, now=now)
        yield travel


def place(*, dies: bool = False) -> None:
    lamp = str(Product.objects.get().pk)
    new = services.NewOrder(lines=(services.Line(quantity=2, product_id=lamp),), order_id="order-1", user_id="ann")
    with transaction.atomic(using="orders"):
        services.place_order(new=new, now=timezone.now())
        transaction.set_rollback(dies, using="orders")


def available() -> int:
    return Product.objects.get().available


def test_an_orphan_is_given_back_when_it_expires(post: Carrier, clock: Any, settings: Any) -> None:
    place(dies=True)
    assert not Order.objects.exists()
    assert available() == 1
    expire_holds()
    post.run()
    assert available() == 1  # the customer may yet try again
    clock.shift(settings.HOLD_TTL + timedelta(seconds=1))
    expire_holds()
    post.run()
    assert available() == 3
    assert broken() + unfinished() == []


def test_a_second_try_takes_the_orphan_s_place_at_once(post: Carrier) -> None:
    place(dies=True)
    place()
    assert available() == 1
    post.run()
    assert Order.objects.get().status == "done"
    assert Product.objects.get().sold == 2
    assert broken() + unfinished() == []


@pytest.mark.parametrize("seed", range(4))
def test_an_order_placed_while_its_orphan_is_given_back_is_none_the_worse(
    post: Carrier, clock: Any, settings: Any, seed: int
) -> None:
    """The news of the orphan's expiry arrives when there is an order of that name with a hold of its own."""
    place(dies=True)
    clock.shift(settings.HOLD_TTL + timedelta(seconds=1))
    expire_holds()
    place()
    post.times, post.shuffle = 2, random.Random(seed)
    post.run()
    assert Order.objects.get().status == "done"
    assert sorted(Hold.objects.values_list("status", flat=True)) == ["released", "sold"]
    assert available() == 1
    assert broken() + unfinished() == []
