"""The same API in a browser: pages with forms that work."""

from html.parser import HTMLParser
from typing import Any

import pytest
from django.test import Client

from orders import factories
from orders.models import Order

from .conftest import Shop

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("unlimited")]

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "Origin": "http://testserver"}


class Fields(HTMLParser):
    """The fields of the forms on a page, with their values."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("input", "select", "textarea") and (name := given.get("name")):
            self.found.setdefault(name, given.get("value") or "")


def fill_in(client: Client, **values: str) -> Any:
    """Open the page, fill in its form and send it as a browser does, with its empty fields too."""
    fields = Fields(client.get("/orders", headers=BROWSER).content.decode()).found
    names = {name.replace("__", "]").replace("items_", "items["): value for name, value in values.items()}
    assert names.keys() <= fields.keys()
    own = {name: value for name, value in fields.items() if not name.startswith("_")}
    return client.post("/orders", own | names, headers=BROWSER)


def test_an_order_of_products_by_the_form(client: Client, shop: Shop, lamp: str) -> None:
    other = shop.sells("chair", price=249)
    answer = fill_in(
        client,
        user_email="ann@example.com",
        items_0__product_id=lamp,
        items_0__quantity="2",
        items_2__sku="chair",
        items_2__quantity="1",
        items_2__price="249.00",
    )
    assert answer.status_code == 201, answer.content
    assert answer["Content-Type"].startswith("text/html")
    order = Order.objects.get()
    assert [(str(line.product_id), line.quantity) for line in order.lines.all()] == [(lamp, 2), (other, 1)]
    assert order.total == 2 * 39_90 + 249_00


def test_an_order_of_an_amount_by_the_form(client: Client) -> None:
    assert fill_in(client, user_id="ann", amount="12.50", description="A course").status_code == 201
    assert Order.objects.get().total == 12_50


def test_a_refused_form_keeps_what_was_filled_in(client: Client) -> None:
    answer = fill_in(client, user_email="nobody", items_1__sku="<b>x</b>", items_1__quantity="many", amount="")
    page = answer.content.decode()
    assert answer.status_code == 400
    assert 'value="nobody"' in page
    assert 'value="&lt;b&gt;x&lt;/b&gt;"' in page
    assert 'value="many"' in page
    assert "Enter a valid email address." in page
    assert "An integer is required." in page
    assert not Order.objects.exists()


def test_a_form_that_a_service_refused_keeps_it_too(client: Client, lamp: str) -> None:
    answer = fill_in(client, user_email="ann@example.com", items_0__product_id=lamp, items_0__quantity="11")
    page = answer.content.decode()
    assert answer.status_code == 409
    assert f'value="{lamp}"' in page
    assert "11 asked for, 10 left." in page


def test_the_page_of_an_order_links_to_its_history_and_its_cancellation(client: Client) -> None:
    path = f"/orders/{factories.order().order_id}"
    page = client.get(path, headers=BROWSER).content.decode()
    assert f'href="{path}/events"' in page
    assert f'href="{path}/cancel"' in page
    assert client.get(f"{path}/events", headers=BROWSER).status_code == 200
    page = client.get(f"{path}/cancel", headers=BROWSER).content.decode()
    assert f'<form action="{path}/cancel" method="POST"' in " ".join(page.split())
    assert client.post(f"{path}/cancel", {}, headers=BROWSER).status_code == 202


def test_a_form_is_accepted_only_from_a_browser(client: Client) -> None:
    assert client.post("/orders", {"user_id": "ann", "amount": "1"}).status_code == 415
