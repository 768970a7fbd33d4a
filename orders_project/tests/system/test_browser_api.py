"""The API in a real browser: its documents and its pages, under the strict policy, with nothing from outside."""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from orders_project.tests import screenshots
from orders_project.tests.operators import Operator
from orders_project.tests.running_system import RunningSystem

pytestmark = pytest.mark.processes


@pytest.fixture
def user(chromium: Any, web: RunningSystem, demo: RunningSystem) -> Iterator[Operator]:
    found = Operator(chromium, web)
    asked: list[str] = []
    found.page.on("request", lambda request: asked.append(request.url))
    yield found
    found.is_well()
    assert asked
    assert not [url for url in asked if not url.startswith((web.url("/"), "data:", "blob:"))]
    found.context.close()


def answered(user: Operator) -> tuple[int, Any]:
    """The status and the body of what a page of the API shows."""
    shown = user.page.inner_text(".response-info")
    status = re.search(r"HTTP (\d+)", shown)
    assert status is not None, shown
    return int(status[1]), json.loads(shown[shown.index("{") :])


def send(user: Operator, **fields: str) -> tuple[int, Any]:
    """Fill in the form of the page and send it; what is answered."""
    for name, value in fields.items():
        user.page.fill(f"[name='{name}']", value)
    user.follow("#post-object-form button.btn-primary, form[enctype] button.btn-primary")
    return answered(user)


def test_the_documents_try_things_out(user: Operator) -> None:
    user.open("/docs")
    user.page.click("#operations-orders-place_order .opblock-summary-control")
    user.page.click("#operations-orders-place_order .try-out__btn")
    user.page.fill("#operations-orders-place_order textarea", '{"user_id": "demo-rich", "amount": 3}')
    user.page.click("#operations-orders-place_order button.execute")
    user.page.wait_for_selector("#operations-orders-place_order .live-responses-table tr.response .response-col_status")
    assert "201" in user.page.inner_text(
        "#operations-orders-place_order .live-responses-table tr.response .response-col_status"
    )


def test_the_reference_finds_things(user: Operator) -> None:
    user.open("/redoc")
    user.page.fill("input[role=search], input[aria-label=Search]", "deposit")
    user.page.wait_for_selector("[data-role='search:results'] >> text=Deposit")


def test_an_order_is_placed_followed_and_canceled(user: Operator) -> None:
    user.open("/")
    user.open("/orders")
    status, order = send(user, user_id="demo-rich", amount="12.50", description="<b>A lamp</b>")
    assert (status, order["total_amount"], order["description"]) == (201, 12.5, "<b>A lamp</b>")
    user.open(f"/orders/{order['order_id']}")
    user.follow("a:has-text('History')")
    assert answered(user)[1]["results"][0]["version"] == 1
    user.open(f"/orders/{order['order_id']}")
    user.follow("a:has-text('Cancel')")
    status, canceled = send(user)
    assert (status, canceled["status"]) == (202, "voiding")


def test_a_list_is_filtered(user: Operator) -> None:
    user.open("/orders")
    user.page.click("text=Filters")
    user.page.wait_for_selector("#filtersModal.in")
    user.page.select_option("#filtersModal [name=status]", "pending")
    user.follow("#filtersModal button[type=submit]")
    assert "status=pending" in user.page.url
    status, page = answered(user)
    assert (status, {order["status"] for order in page["results"]}) == (200, {"pending"})


def test_an_account_is_opened_and_filled(user: Operator) -> None:
    user.open("/accounts")
    assert send(user, user_id="browser")[0] == 201
    user.open("/accounts/browser/balance")
    user.follow("a:has-text('Deposit')")
    status, account = send(user, amount="7")
    assert (status, account["balance"]) == (200, 7.0)


def test_products_are_kept_by_who_has_entered_the_back_office(user: Operator) -> None:
    """Without the secret: by the session of the back office, with the token of its forms."""
    user.open("/admin/products")
    assert not user.page.query_selector("[name=price]"), "nobody may use the form"
    user.follow("a:has-text('Log in')")
    screenshots.log_in(user.page, "admin", (user.system.home / "password").read_text())
    status, product = send(user, name="Kettle", price="25.00", stock="3", sku="kettle")
    assert (status, product["price"], product["stock"], product["is_active"]) == (201, 25.0, 3, True)
    path = f"/admin/products/{product['product_id']}"
    user.open(path)
    user.page.fill("textarea[name=_content]", '{"price": 20, "stock": 5}')
    user.page.click("button:has-text('PATCH')")
    user.page.wait_for_selector(".request-info >> text=PATCH")
    status, changed = answered(user)
    assert (status, changed["price"], changed["stock"]) == (200, 20.0, 5)
    movements = user.system.query(
        "processing", "SELECT DISTINCT actor FROM processing_stockmovement WHERE actor LIKE 's%%'"
    )
    assert movements == [("staff:admin",)]
    cookies = {cookie["name"]: cookie["value"] for cookie in user.context.cookies()}
    forged = requests.post(user.system.url("/admin/products"), json={"name": "x", "price": 1, "stock": 1},
                           cookies=cookies, timeout=60)  # fmt: skip
    assert (forged.status_code, forged.json()["code"]) == (403, "permission_denied")


FOREIGN = """
<form id="form" method="post" enctype="multipart/form-data" action="{orders}">
  <input name="user_id" value="demo-rich"><input name="amount" value="3"><button>Look at kittens</button>
</form>
"""


def test_a_page_of_another_site_changes_nothing(chromium: Any, web: RunningSystem) -> None:
    orders = web.url("/orders")
    counted = "SELECT count(*) FROM orders_order"
    before = web.query("orders", counted)
    with contextlib.closing(chromium.new_context()) as context:
        page = context.new_page()
        page.route(
            "http://kittens.example/**",
            lambda route: route.fulfill(body=FOREIGN.format(orders=orders), content_type="text/html"),
        )
        page.goto("http://kittens.example/")
        send = "url => fetch(url, {method: 'POST', mode: 'no-cors', body: new FormData(form)}).then(() => 1, () => 1)"
        assert page.evaluate(send, orders)
        with page.expect_navigation():
            page.click("button")
        assert "cross_site" in page.inner_text("body")
    assert web.query("orders", counted) == before
