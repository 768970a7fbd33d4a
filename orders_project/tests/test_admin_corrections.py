"""Dead letters are corrected in the back office: reviewed, then sent as reviewed, by whoever may move the money."""

import json
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import transaction
from django.test import Client
from django.utils import timezone

from common.authority import Authority
from common.corrections import replay_corrected
from orders_project.models import Approval
from orders_project.tests.test_admin_actions import client_of, do, url
from outbox import dead_letters
from outbox.corrections import NotCorrectable
from outbox.ids import uuid7
from outbox.message import Message
from outbox.models import DeadLetter
from outbox.services import model_of
from payments import services as money
from payments.messages import Charge, RefundReceipt

pytestmark = pytest.mark.django_db
Outgoing = model_of("payments", "Outgoing")


@pytest.fixture
def charge(db: Any) -> DeadLetter:
    """A charge that died, because its method is not one that there is."""
    money.open_account(user_id="ann")
    return dead_letter_of(Charge(order_id="o-1", amount=500, currency="USD", method="acount", user_id="ann"))


def dead_letter_of(message: Message) -> Any:
    with transaction.atomic(using="payments"):
        (row,) = Outgoing.post(message)
        row.delete()
    envelope = row.envelope()
    dead = model_of("payments", "DeadLetter").of(
        envelope, reason="failed", origin="consumer", queue="payments", body=envelope.encode(), error="KeyError"
    )
    dead.record()
    return dead


def data_of(dead: Any, **changed: Any) -> str:
    return json.dumps(dead.envelope().data | changed)


def review(client: Client, dead: Any, **values: Any) -> Any:
    return do(client, dead, "correct", reason="a typing error", **values)


def send(client: Client, dead: Any, **values: Any) -> Any:
    """Have it reviewed, and send what was reviewed."""
    page = review(client, dead, **values)
    form = {name: page.context["form"].data[name] for name in ("once", "corrected", "reason")}
    return client.post(url(dead, "correct"), form | {"reviewed": page.context["reviewed"]})


def test_is_reviewed_before_it_is_sent(charge: Any) -> None:
    page = review(client_of("manager"), charge, corrected=data_of(charge, method="account"))
    assert page.status_code == 200
    text = page.content.decode()
    assert "<del>&quot;acount&quot;</del>" in text
    assert "<ins>&quot;account&quot;</ins>" in text
    assert "all its effects were rolled back" in text
    assert not Outgoing.objects.exists()


def test_sends_what_was_reviewed_once(charge: Any) -> None:
    manager = client_of("manager")
    page = review(manager, charge, corrected=data_of(charge, method="account"))
    form = {name: page.context["form"].data[name] for name in ("once", "corrected", "reason")}
    reviewed = {"reviewed": page.context["reviewed"]}
    other = manager.post(url(charge, "correct"), form | reviewed | {"corrected": data_of(charge, amount=499)})
    assert "reviewed" in other.context  # other values are reviewed first
    assert not Outgoing.objects.exists()
    for _ in range(2):
        assert manager.post(url(charge, "correct"), form | reviewed).status_code == 302
    (row,) = Outgoing.objects.filter(type="payments.charge")
    assert row.data["method"] == "account"
    assert [(one.verb, one.by) for one in dead_letters.actions(charge)] == [("correct", "manager")]
    assert LogEntry.objects.get().change_message == "Correct and replay. Reason: a typing error."


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"amount": "500"}, "data.amount is not int"), ({"ammount": 5}, "no field ammount"), ({}, "Nothing is different")],
)
def test_is_checked_against_the_fields_of_its_type(charge: Any, changed: Any, words: str) -> None:
    page = review(client_of("manager"), charge, corrected=data_of(charge, **changed))
    assert page.status_code == 422
    assert words in page.content.decode()


def test_has_its_own_permission(charge: Any) -> None:
    assert client_of("operator").get(url(charge, "correct")).status_code == 403


def test_that_moves_much_money_takes_a_second_person(charge: Any) -> None:
    manager, other = client_of("manager"), client_of("manager", "other")
    assert send(manager, charge, corrected=data_of(charge, amount=5000_00)).status_code == 302
    charge.refresh_from_db()
    assert (charge.status, Outgoing.objects.count()) == ("dead", 0)
    approval = Approval.objects.get()
    assert (approval.amount, approval.currency, approval.reason) == (5000_00, "USD", "a typing error")
    assert do(manager, approval, "approve").status_code == 422
    assert do(other, approval, "approve").status_code == 302
    assert Outgoing.objects.get().data["amount"] == 5000_00
    assert [one.by for one in dead_letters.actions(charge)] == ["other for manager"]


def test_leaves_no_amount_out_which_would_mean_all_there_is() -> None:
    dead = dead_letter_of(RefundReceipt(receipt_id=str(uuid7()), order_id="o-1", amount=500, currency="USD"))
    by = Authority("manager", is_staff=True)
    with pytest.raises(NotCorrectable, match="amount"):
        replay_corrected(
            dead_letter=dead, data=dead.envelope().data | {"amount": None}, reason="all", by=by, now=timezone.now()
        )
    dead.refresh_from_db()
    assert (dead.status, Outgoing.objects.count()) == ("dead", 0)
