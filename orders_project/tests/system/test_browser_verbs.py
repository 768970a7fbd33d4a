"""Every verb of the back office, pressed in a real browser, on the running system."""

import re
from collections.abc import Callable

import pytest

from orders_project.tests import screenshots
from orders_project.tests.operators import NASTY, Operator, approve

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("on_record")]


def test_a_double_click_pays_once(user: Operator) -> None:
    system = user.system
    ((account,),) = system.query("payments", "SELECT id FROM payments_account WHERE user_id = 'demo-poor'")
    user.open(f"/admin/payments/account/{account}/change/")
    ((before,),) = system.query("payments", "SELECT balance FROM payments_account WHERE id = %s", account)
    user.press("Deposit")
    user.page.fill("[name=amount]", "12,50")
    user.page.fill("[name=reason]", f"for the poor {NASTY}")
    user.page.dblclick(".submit-row [type=submit]")
    user.page.wait_for_selector(".messagelist")
    ((after,),) = system.query("payments", "SELECT balance FROM payments_account WHERE id = %s", account)
    assert after - before == 12_50
    assert "for the poor" in user.page.inner_text("#content")
    user.press("Correct the balance")
    user.send(amount="-0.50", reason="a fee")
    assert "corrected by -0.50 USD" in user.told()
    user.is_well()


def test_products_live(user: Operator) -> None:
    user.open("/admin/processing/product/")
    user.press("Add a product")
    user.send(name=NASTY, price="3", stock="1", sku="nasty")
    assert "has been added to the catalog" in user.told()
    user.follow("#result_list tbody tr:first-child th a")
    user.press("Receive stock")
    user.send(quantity="9", reason="delivery")
    user.press("Correct the stock")
    user.send(quantity="-2", reason="broken")
    user.press("Edit the product")
    user.send(price="4.50")
    rows = user.system.query("processing", "SELECT price, available FROM processing_product WHERE sku = 'nasty'")
    assert rows == [(450, 8)]
    user.is_well()


def test_dead_letters_are_previewed_replayed_and_discarded(user: Operator) -> None:
    dead = "SELECT count(*) FROM outbox_deadletter WHERE status = 'dead'"
    replayed = "SELECT count(*) FROM outbox_deadletter WHERE status = 'replayed'"
    before = user.system.query("orders", dead)
    user.open("/admin/dead-letters/")
    user.follow(user.page.get_by_role("link", name="See what a replay would do").first)
    assert "It would fail again with the same error" in user.page.inner_text("#content")
    preview = user.page.url
    user.press("Correct and replay")
    data = user.page.input_value("[name=corrected]")
    user.send(corrected=data.replace("fraud_check", NASTY), reason="a test")
    assert NASTY in user.page.inner_text("ins")
    user.page.goto(preview)  # without sending it
    user.press("Replay as a canary")
    user.send()
    assert user.system.query("orders", replayed) == [(1,)]
    user.system.until(lambda: user.system.query("orders", dead) == before)
    user.open("/admin/dead-letters/")
    user.follow(user.page.get_by_role("link", name=re.compile("^Replay \\(")).first)
    user.send()
    user.page.wait_for_selector(".errornote, .success")
    assert "canary failed again" in user.page.inner_text("#content")
    assert user.system.query("orders", dead) == before
    while user.open("/admin/dead-letters/") and user.page.query_selector("article.group"):
        user.follow(user.page.get_by_role("link", name=re.compile("^Discard \\(")).first)
        user.send(reason="a test")
        user.page.wait_for_selector(".success")
    assert user.system.query("orders", dead) == [(0,)]
    assert "no dead letters" in user.page.inner_text("#content")
    user.is_well()


def test_an_order_is_helped_on_its_way(user: Operator, waiting: str) -> None:
    path = f"/admin/orders/order/{waiting}/change/"
    user.open(path)
    assert "processing.process" in user.page.inner_text(".stuck")
    user.press("Retry the step")
    user.send()
    assert "processing.process has been sent again" in user.told()
    user.system.start("processing")
    user.system.until(lambda: screenshots.status_of(user.system, waiting) == "done")
    user.open(path)
    assert "The order is paid and processed." in user.page.inner_text(".stuck")
    user.system.stop("payments")
    held = screenshots.place(user.system, user_id="demo-rich", amount=7)
    user.open(f"/admin/orders/order/{held}/change/")
    user.press("Cancel order")
    user.send(reason=f"by phone {NASTY}")
    assert "being canceled" in user.told()
    false_claim = screenshots.place(user.system, user_id="demo-rich", amount=8)
    user.open(f"/admin/orders/order/{false_claim}/change/")
    user.press("Resolve with evidence")
    user.page.select_option("[name=truth]", "payment.failed")
    user.send(reason="ticket 12")
    user.system.until(lambda: screenshots.status_of(user.system, false_claim) == "canceled")
    user.system.start("payments")
    user.system.until(lambda: screenshots.status_of(user.system, held) == "canceled")
    user.is_well()


def test_a_second_person_approves(user: Operator, bob: Operator) -> None:
    system = user.system
    if "processing" in system.running:
        system.stop("processing")
    dear = screenshots.place(system, user_id="demo-rich", amount=1500)
    system.until(lambda: screenshots.status_of(system, dear) == "paid")
    user.open(f"/admin/orders/order/{dear}/change/")
    user.press("Cancel and refund")
    user.send(reason="fraud")
    assert "second person" in user.told()
    approve(user, dear)
    assert "you requested this" in user.page.inner_text("[role=alert]")
    approve(bob, dear)
    # Two messages wait for processing: process it, and release it. The first one handled decides, and an acceptance
    # would end in "done"; so the processor refuses.
    system.start("processing", env={"PROCESSING_SUCCESS_RATE": "0"})
    system.until(lambda: screenshots.status_of(system, dear) == "canceled")
    system.stop("processing")
    system.start("processing")
    bob.is_well()


def test_every_verb_is_on_record(on_record: Callable[[], str]) -> None:
    said = on_record()
    for verb in (
        "Deposit.", "Correct the balance.", "Add a product.", "Receive stock.", "Correct the stock.",
        "Edit the product.", "Replay as a canary.", "replay:", "discard finished:", "Retry the step.",
        "Cancel order.", "Resolve with evidence.",
        "Cancel and refund.", "Approve.",
    ):  # fmt: skip
        assert verb in said, f"{verb} is not in the log"
