"""Every verb of the back office, pressed in a real browser, on the running system."""

import re
from collections.abc import Callable

import pytest

from orders_project.tests import screenshots
from orders_project.tests.desk import NASTY, Desk, approve

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("on_record")]


def test_a_double_click_pays_once(desk: Desk) -> None:
    house = desk.house
    ((account,),) = house.query("payments", "SELECT id FROM payments_account WHERE user_id = 'demo-poor'")
    desk.open(f"/admin/payments/account/{account}/change/")
    ((before,),) = house.query("payments", "SELECT balance FROM payments_account WHERE id = %s", account)
    desk.press("Deposit")
    desk.page.fill("[name=amount]", "12,50")
    desk.page.fill("[name=reason]", f"for the poor {NASTY}")
    desk.page.dblclick(".submit-row [type=submit]")
    desk.page.wait_for_selector(".messagelist")
    ((after,),) = house.query("payments", "SELECT balance FROM payments_account WHERE id = %s", account)
    assert after - before == 12_50
    assert "for the poor" in desk.page.inner_text("#content")
    desk.press("Correct the balance")
    desk.send(amount="-0.50", reason="a fee")
    assert "corrected by -0.50 USD" in desk.told()
    desk.is_well()


def test_products_live(desk: Desk) -> None:
    desk.open("/admin/processing/product/")
    desk.press("Add a product")
    desk.send(name=NASTY, price="3", stock="1", sku="nasty")
    assert "has been added to the catalog" in desk.told()
    desk.follow("#result_list tbody tr:first-child th a")
    desk.press("Receive stock")
    desk.send(quantity="9", reason="delivery")
    desk.press("Correct the stock")
    desk.send(quantity="-2", reason="broken")
    desk.press("Edit")
    desk.send(price="4.50")
    rows = desk.house.query("processing", "SELECT price, available FROM processing_product WHERE sku = 'nasty'")
    assert rows == [(450, 8)]
    desk.is_well()


def test_dead_letters_are_previewed_replayed_and_discarded(desk: Desk) -> None:
    dead = "SELECT count(*) FROM outbox_deadletter WHERE status = 'dead'"
    replayed = "SELECT count(*) FROM outbox_deadletter WHERE status = 'replayed'"
    before = desk.house.query("orders", dead)
    desk.open("/admin/dead-letters/")
    desk.follow(desk.page.get_by_role("link", name="See what a replay would do").first)
    assert "It would fail again with the same error" in desk.page.inner_text("#content")
    desk.press("Replay as a canary")
    desk.send()
    assert desk.house.query("orders", replayed) == [(1,)]
    desk.house.until(lambda: desk.house.query("orders", dead) == before)
    desk.open("/admin/dead-letters/")
    desk.follow(desk.page.get_by_role("link", name=re.compile("^Replay \\(")).first)
    desk.send()
    desk.page.wait_for_selector(".errornote, .success")
    assert "canary failed again" in desk.page.inner_text("#content")
    assert desk.house.query("orders", dead) == before
    while desk.open("/admin/dead-letters/") and desk.page.query_selector("article.group"):
        desk.follow(desk.page.get_by_role("link", name=re.compile("^Discard \\(")).first)
        desk.send()
        desk.page.wait_for_selector(".success")
    assert desk.house.query("orders", dead) == [(0,)]
    assert "no dead letters" in desk.page.inner_text("#content")
    desk.is_well()


def test_an_order_is_helped_on_its_way(desk: Desk, waiting: str) -> None:
    path = f"/admin/orders/order/{waiting}/change/"
    desk.open(path)
    assert "is a worker of processing running?" in desk.page.inner_text(".stuck")
    desk.press("Retry the step")
    desk.send()
    assert "processing.process has been sent again" in desk.told()
    desk.house.start("processing")
    desk.house.until(lambda: screenshots.status_of(desk.house, waiting) == "done")
    desk.open(path)
    assert "it has ended" in desk.page.inner_text(".stuck")
    desk.house.stop("payments")
    held = screenshots.place(desk.house, user_id="demo-rich", amount=7)
    desk.open(f"/admin/orders/order/{held}/change/")
    desk.press("Cancel")
    desk.send(reason=f"by phone {NASTY}")
    assert "being canceled" in desk.told()
    false_claim = screenshots.place(desk.house, user_id="demo-rich", amount=8)
    desk.open(f"/admin/orders/order/{false_claim}/change/")
    desk.press("Resolve with evidence")
    desk.page.select_option("[name=truth]", "payment.failed")
    desk.send(reason="ticket 12")
    desk.house.until(lambda: screenshots.status_of(desk.house, false_claim) == "canceled")
    desk.house.start("payments")
    desk.house.until(lambda: screenshots.status_of(desk.house, held) == "canceled")
    desk.is_well()


def test_a_second_person_approves(desk: Desk, bob: Desk) -> None:
    house = desk.house
    if "processing" in house.running:
        house.stop("processing")
    dear = screenshots.place(house, user_id="demo-rich", amount=1500)
    house.until(lambda: screenshots.status_of(house, dear) == "paid")
    desk.open(f"/admin/orders/order/{dear}/change/")
    desk.press("Cancel and refund")
    desk.send(reason="fraud")
    assert "second person" in desk.told()
    approve(desk, dear)
    assert "you requested this" in desk.page.inner_text("[role=alert]")
    approve(bob, dear)
    # Two letters wait for processing: process it, and release it. Whichever is handled first decides, and an acceptance
    # would end in "done"; so the processor refuses.
    house.start("processing", env={"PROCESSING_SUCCESS_RATE": "0"})
    house.until(lambda: screenshots.status_of(house, dear) == "canceled")
    house.stop("processing")
    house.start("processing")
    bob.is_well()


def test_every_verb_is_on_record(on_record: Callable[[], str]) -> None:
    said = on_record()
    for verb in (
        "Deposit.", "Correct the balance.", "Add a product.", "Receive stock.", "Correct the stock.", "Edit.",
        "Replay as a canary.", "replay:", "discard:", "Retry the step.", "Cancel.", "Resolve with evidence.",
        "Cancel and refund.", "Approve.",
    ):  # fmt: skip
        assert verb in said, f"{verb} is not in the log"
