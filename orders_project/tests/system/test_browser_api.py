"""The API in a real browser: its documents and its pages, under the strict policy, with nothing from outside."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from orders_project.tests import screenshots
from orders_project.tests.desk import Desk
from orders_project.tests.house import House

pytestmark = pytest.mark.processes


@pytest.fixture
def desk(chromium: Any, web: House, demo: House) -> Iterator[Desk]:
    found = Desk(chromium, web)
    asked: list[str] = []
    found.page.on("request", lambda request: asked.append(request.url))
    yield found
    found.is_well()
    assert asked
    assert not [url for url in asked if not url.startswith((web.url("/"), "data:", "blob:"))]
    found.context.close()


def answered(desk: Desk) -> tuple[int, Any]:
    """The status and the body of what a page of the API shows."""
    shown = desk.page.inner_text(".response-info")
    status = re.search(r"HTTP (\d+)", shown)
    assert status is not None, shown
    return int(status[1]), json.loads(shown[shown.index("{") :])


def send(desk: Desk, **fields: str) -> tuple[int, Any]:
    """Fill in the form of the page and send it; what is answered."""
    for name, value in fields.items():
        desk.page.fill(f"[name='{name}']", value)
    desk.follow("#post-object-form button.btn-primary, form[enctype] button.btn-primary")
    return answered(desk)


def test_the_documents_try_things_out(desk: Desk) -> None:
    desk.open("/docs")
    desk.page.click("#operations-orders-place_order .opblock-summary-control")
    desk.page.click("#operations-orders-place_order .try-out__btn")
    desk.page.fill("#operations-orders-place_order textarea", '{"user_id": "demo-rich", "amount": 3}')
    desk.page.click("#operations-orders-place_order button.execute")
    desk.page.wait_for_selector("#operations-orders-place_order .live-responses-table tr.response .response-col_status")
    assert "201" in desk.page.inner_text(
        "#operations-orders-place_order .live-responses-table tr.response .response-col_status"
    )


def test_the_reference_finds_things(desk: Desk) -> None:
    desk.open("/redoc")
    desk.page.fill("input[role=search], input[aria-label=Search]", "deposit")
    desk.page.wait_for_selector("[data-role='search:results'] >> text=Deposit")


def test_an_order_is_placed_followed_and_canceled(desk: Desk) -> None:
    desk.open("/")
    desk.open("/orders")
    status, order = send(desk, user_id="demo-rich", amount="12.50", description="<b>A lamp</b>")
    assert (status, order["total_amount"], order["description"]) == (201, 12.5, "<b>A lamp</b>")
    desk.open(f"/orders/{order['order_id']}")
    desk.follow("a:has-text('History')")
    assert answered(desk)[1]["results"][0]["version"] == 1
    desk.open(f"/orders/{order['order_id']}")
    desk.follow("a:has-text('Cancel')")
    status, canceled = send(desk)
    assert (status, canceled["status"]) == (202, "voiding")


def test_a_list_is_filtered(desk: Desk) -> None:
    desk.open("/orders")
    desk.page.click("text=Filters")
    desk.page.wait_for_selector("#filtersModal.in")
    desk.page.select_option("#filtersModal [name=status]", "pending")
    desk.follow("#filtersModal button[type=submit]")
    assert "status=pending" in desk.page.url
    status, page = answered(desk)
    assert (status, {order["status"] for order in page["results"]}) == (200, {"pending"})


def test_an_account_is_opened_and_filled(desk: Desk) -> None:
    desk.open("/accounts")
    assert send(desk, user_id="browser")[0] == 201
    desk.open("/accounts/browser/balance")
    desk.follow("a:has-text('Deposit')")
    status, account = send(desk, amount="7")
    assert (status, account["balance"]) == (200, 7.0)


def test_products_are_kept_by_who_has_entered_the_back_office(desk: Desk) -> None:
    """Without the secret: by the session of the back office, with the token of its forms."""
    desk.open("/admin/products")
    assert not desk.page.query_selector("[name=price]"), "nobody may use the form"
    desk.follow("a:has-text('Log in')")
    screenshots.log_in(desk.page, "admin", (desk.house.home / "password").read_text())
    status, product = send(desk, name="Kettle", price="25.00", stock="3", sku="kettle")
    assert (status, product["price"], product["stock"], product["is_active"]) == (201, 25.0, 3, True)
    path = f"/admin/products/{product['product_id']}"
    desk.open(path)
    desk.page.fill("textarea[name=_content]", '{"price": 20, "stock": 5}')
    desk.page.click("button:has-text('PATCH')")
    desk.page.wait_for_selector(".request-info >> text=PATCH")
    status, changed = answered(desk)
    assert (status, changed["price"], changed["stock"]) == (200, 20.0, 5)
    movements = desk.house.query(
        "processing", "SELECT DISTINCT actor FROM processing_stockmovement WHERE actor LIKE 's%%'"
    )
    assert movements == [("staff:admin",)]
    cookies = {cookie["name"]: cookie["value"] for cookie in desk.context.cookies()}
    forged = requests.post(desk.house.url("/admin/products"), json={"name": "x", "price": 1, "stock": 1},
                           cookies=cookies, timeout=60)  # fmt: skip
    assert (forged.status_code, forged.json()["code"]) == (403, "permission_denied")
