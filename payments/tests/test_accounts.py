"""The endpoints of accounts: an account is opened once, a deposit happens once for each key, and owners can read."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connections, transaction
from django.test import Client
from django.utils import timezone

from common.authority import Authority
from common.money import LARGEST
from common.principal import Principal
from payments import accounts, ledger, services
from payments.models import Account, Entry, IdempotencyKey

pytestmark = pytest.mark.django_db

NOW = timezone.now()


@pytest.fixture
def ann() -> Account:
    return services.open_account(user_id="ann")[0]


def deposit(client: Client, amount: object = 10, *, user: str = "ann", key: str | None = None) -> Any:
    headers = {"Idempotency-Key": key} if key is not None else {}
    return client.post(
        f"/accounts/{user}/deposit", json.dumps({"amount": amount}), content_type="application/json", headers=headers
    )


class TestOpeningAnAccount:
    def test_is_answered_by_the_new_account(self, client: Client) -> None:
        answer = client.post("/accounts?user_id=ann")
        assert answer.status_code == 201
        made = answer.json()
        assert set(made) == {"user_id", "balance", "currency", "created_at"}
        assert (made["user_id"], made["balance"], made["currency"]) == ("ann", 0.0, "USD")
        assert client.get(answer["Location"]).json() == made

    def test_again_is_answered_by_the_same_account(self, client: Client) -> None:
        first = client.post("/accounts?user_id=ann").json()
        again = client.post("/accounts/?user_id=ann")
        assert (again.status_code, again.json()) == (200, first)
        assert Account.objects.filter(user_id="ann").count() == 1

    def test_may_name_the_user_in_the_body(self, client: Client) -> None:
        answer = client.post("/accounts", {"user_id": "юзер"}, content_type="application/json")
        assert (answer.status_code, answer.json()["user_id"]) == (201, "юзер")
        assert client.get("/accounts/юзер/balance").status_code == 200

    @pytest.mark.parametrize(
        "query", ["", "?user_id=", "?user_id=a/b", "?user_id=..", f"?user_id={'x' * 101}", "?user_id=a%00b",
                  "?user_id=a%0Ab", "?user_id=a&user_id=b"],
    )  # fmt: skip
    def test_needs_a_user(self, client: Client, query: str) -> None:
        answer = client.post(f"/accounts{query}", content_type="application/json")
        assert answer.status_code == 400, answer.content
        assert list(answer.json()["errors"]) == ["user_id"]
        assert not Account.objects.exists()

    @pytest.mark.parametrize("body", ["[1]", '"x"', "7", "{"])
    def test_needs_an_object_if_anything(self, client: Client, body: str) -> None:
        assert client.post("/accounts", body, content_type="application/json").status_code == 400


class TestADeposit:
    def test_adds_to_the_balance_by_an_entry(self, client: Client, ann: Account) -> None:
        answer = deposit(client, "12.34")
        assert (answer.status_code, answer.json()["balance"]) == (200, 12.34)
        entry = Entry.objects.get()
        assert (entry.kind, entry.source.user_id, entry.target, entry.amount) == ("deposit", "cash", ann, 1234)

    @pytest.mark.parametrize(
        "amount", [0, -1, "0.001", 12.345, True, None, "", "x", [], {}, "١٢", "1_0", "NaN", "Infinity", 1e300, 10**15]
    )
    def test_of_no_amount_is_refused(self, client: Client, ann: Account, amount: object) -> None:
        answer = deposit(client, amount)
        assert answer.status_code == 400, answer.content
        assert list(answer.json()["errors"]) == ["amount"]
        assert not Entry.objects.exists()

    @pytest.mark.parametrize("body", [b'{"amount": NaN}', b'{"amount": 1e999999999}', b"\xff", b"[]", b"", b"null"])
    def test_that_cannot_be_read_is_refused(self, client: Client, ann: Account, body: bytes) -> None:
        answer = client.post("/accounts/ann/deposit", body, content_type="application/json")
        assert answer.status_code == 400, answer.content
        assert not Entry.objects.exists()

    def test_on_an_unknown_account_is_refused(self, client: Client) -> None:
        answer = deposit(client, user="nobody")
        assert (answer.status_code, answer.json()["code"]) == (404, "no_account")

    @pytest.mark.parametrize("path", ["cash", "a%00b", "a%0Ab"])
    def test_never_reaches_a_system_account(self, client: Client, ann: Account, path: str) -> None:
        services.deposit(user_id="ann", amount=1, now=NOW)
        assert client.get(f"/accounts/{path}/balance").status_code == 404

    def test_never_makes_an_account_too_large(self, client: Client, ann: Account) -> None:
        services.deposit(user_id="ann", amount=LARGEST, now=NOW)
        answer = deposit(client, "0.01")
        assert (answer.status_code, answer.json()["code"]) == (409, "balance_too_large")
        assert Account.objects.get(user_id="ann").balance == LARGEST


class TestUnderAKeyADeposit:
    def test_sent_again_is_answered_again(self, client: Client, ann: Account) -> None:
        first, again = deposit(client, key="k"), deposit(client, key="k")
        assert (again.status_code, again.json()) == (200, first.json())
        assert "Idempotency-Replayed" not in first
        assert again["Idempotency-Replayed"] == "true"
        assert Account.objects.get(user_id="ann").balance == 1000

    def test_that_is_another_one_is_refused(self, client: Client, ann: Account) -> None:
        services.open_account(user_id="bob")
        deposit(client, key="k")
        for answer in (deposit(client, 11, key="k"), deposit(client, user="bob", key="k")):
            assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_reused")
        assert Entry.objects.count() == 1

    def test_that_was_refused_stays_refused(self, client: Client) -> None:
        first = deposit(client, key="k")
        services.open_account(user_id="ann")
        again = deposit(client, key="k")
        assert (first.status_code, again.status_code, again.json()) == (404, 404, first.json())
        assert again["Content-Type"] == first["Content-Type"] == "application/problem+json"
        assert again["Idempotency-Replayed"] == "true"
        assert not Entry.objects.exists()

    def test_that_failed_here_can_be_sent_again(
        self, client: Client, ann: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client.raise_request_exception = False
        with monkeypatch.context() as broken:
            broken.setattr(accounts, "system_account", lambda *args, **kwargs: 1 / 0)
            assert deposit(client, key="k").status_code == 500
        assert deposit(client, key="k").status_code == 200
        assert Entry.objects.count() == 1

    @pytest.mark.parametrize("key", ["", "x" * 256, "ключ"])
    def test_needs_a_proper_key(self, client: Client, ann: Account, key: str) -> None:
        answer = deposit(client, key=key)
        assert (answer.status_code, list(answer.json()["errors"])) == (400, ["Idempotency-Key"])

    def test_has_its_key_deleted_in_the_end(self, client: Client, ann: Account) -> None:
        deposit(client, key="k")
        assert IdempotencyKey.forget(before=timezone.now() - timedelta(hours=24)) == 0
        assert IdempotencyKey.forget(before=timezone.now()) == 1


@pytest.mark.django_db(transaction=True)
class TestManyAtOnce:
    def test_under_one_key_deposit_once(self) -> None:
        services.open_account(user_id="ann")
        answers = at_once(20, lambda: deposit(Client(), key="k"))
        assert {answer.status_code for answer in answers} <= {200, 409}
        assert any(answer.status_code == 200 for answer in answers)
        for refused in (answer for answer in answers if answer.status_code == 409):
            assert (refused.json()["code"], refused["Retry-After"]) == ("idempotency_key_in_use", "1")
        assert Account.objects.get(user_id="ann").balance == 1000

    def test_charges_never_overdraw(self) -> None:
        services.open_account(user_id="ann")
        services.deposit(user_id="ann", amount=1000, now=NOW)
        numbers = iter(range(40))
        lock = threading.Lock()

        def charge() -> str:
            with lock:
                number = next(numbers)
            money = services.Money(90, "USD")
            return services.charge_account(order_id=f"o{number}", user_id="ann", money=money, now=NOW).status

        outcomes = at_once(40, charge)
        assert (outcomes.count("succeeded"), outcomes.count("failed")) == (11, 29)
        assert Account.objects.get(user_id="ann").balance == 10
        assert Entry.objects.filter(kind="charge").count() == 11

    def test_charges_together_never_overdraw(self) -> None:
        services.open_account(user_id="ann")
        services.deposit(user_id="ann", amount=1000, now=NOW)
        charges = [
            services.AccountCharge(
                order_id=order_id, user_id="ann", principal="", money=services.Money(amount, "USD"), deadline=None
            )
            for order_id, amount in (("o1", 600), ("o2", 600), ("o3", 400))
        ]
        found = services.charge_accounts(charges, now=NOW)
        assert [found[order_id].status for order_id in ("o1", "o2", "o3")] == ["succeeded", "failed", "succeeded"]
        assert Account.objects.get(user_id="ann").balance == 0

    def test_charges_of_one_order_take_its_money_once(self) -> None:
        services.open_account(user_id="ann")
        services.deposit(user_id="ann", amount=1000, now=NOW)
        money = services.Money(90, "USD")
        at_once(10, lambda: services.charge_account(order_id="o", user_id="ann", money=money, now=NOW))
        at_once(10, lambda: services.give_back(order_id="o", now=NOW))
        assert Account.objects.get(user_id="ann").balance == 1000
        assert [e.kind for e in Entry.objects.order_by("id")] == ["deposit", "charge", "refund"]


def at_once(times: int, do: Any) -> list[Any]:
    def alone(_: int) -> Any:
        try:
            return do()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(alone, range(times)))


class TestTheEntriesOfAnAccount:
    def test_are_signed_as_seen_from_it(self, client: Client, ann: Account) -> None:
        services.deposit(user_id="ann", amount=1000, now=NOW)
        services.charge_account(order_id="o", user_id="ann", money=services.Money(250, "USD"), now=NOW)
        services.give_back(order_id="o", now=NOW)
        services.correct(user_id="ann", amount=-100, reason="counted twice", by=ROOT, now=NOW)
        entries = client.get("/accounts/ann/entries").json()["results"]
        assert [(e["kind"], e["amount"], e["order_id"]) for e in entries] == [
            ("correction", -1.0, ""), ("refund", 2.5, "o"), ("charge", -2.5, "o"), ("deposit", 10.0, ""),
        ]  # fmt: skip
        assert sum(e["amount"] for e in entries) == client.get("/accounts/ann/balance").json()["balance"] == 9.0

    @pytest.mark.parametrize(("sort", "first"), [("", 7), ("-at", 7), ("at", 1)])
    def test_come_in_pages(self, client: Client, ann: Account, sort: str, first: int) -> None:
        for amount in range(1, 8):
            services.deposit(user_id="ann", amount=amount, now=NOW)
        seen, url = [], f"/accounts/ann/entries?limit=3&sort={sort}"
        while url:
            page = client.get(url).json()
            seen += [round(e["amount"] * 100) for e in page["results"]]
            url = page["next"]
        assert seen == sorted(range(1, 8), reverse=first == 7)

    @pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=101", "cursor=x", "cursor=%00", "sort=amount"])
    def test_of_an_invalid_page_are_refused(self, client: Client, ann: Account, query: str) -> None:
        assert client.get(f"/accounts/ann/entries?{query}").status_code == 400


class TestAPerson:
    """Uses the same endpoints by the forms on their pages."""

    def test_opens_an_account_and_deposits_by_form(self, client: Client) -> None:
        page = {"Accept": "text/html", "Origin": "http://testserver"}
        assert 'name="user_id"' in client.get("/accounts", headers=page).content.decode()
        assert client.post("/accounts", {"user_id": "ann"}, headers=page).status_code == 201
        assert client.post("/accounts/ann/deposit", {"amount": "5.00"}, headers=page).status_code == 200
        refused = client.post("/accounts/ann/deposit", {"amount": "-5"}, headers=page)
        assert refused.status_code == 400
        assert 'name="amount"' in refused.content.decode()
        assert client.get("/accounts").json()["results"][0]["balance"] == 5.0

    def test_sends_no_form_without_a_page(self, client: Client) -> None:
        assert client.post("/accounts", {"user_id": "ann"}).status_code == 415


ROOT = Authority("root", is_staff=True)


class TestAnotherPrincipal:
    @pytest.fixture
    def as_eve(self, monkeypatch: pytest.MonkeyPatch) -> None:
        eve = Principal(name="eve", scopes=frozenset({"accounts:read", "accounts:write"}))
        monkeypatch.setattr("rest_framework.request.api_settings.UNAUTHENTICATED_USER", lambda: eve)

    def test_sees_no_account_but_its_own(self, client: Client, as_eve: None) -> None:
        services.open_account(user_id="ann", principal="bob")
        answers = [
            client.get("/accounts/ann/balance"), client.get("/accounts/ann/entries"), deposit(client),
        ]  # fmt: skip
        assert [answer.status_code for answer in answers] == [404, 404, 404]
        assert client.get("/accounts").json()["results"] == []
        assert client.post("/accounts?user_id=ann").status_code == 201
        assert client.get("/accounts/ann/balance").json()["balance"] == 0
        assert client.post("/accounts?user_id=eve").status_code == 201
        assert client.get("/accounts/eve/balance").status_code == 200


class TestACorrection:
    def test_says_who_and_why(self, ann: Account) -> None:
        with pytest.raises(services.ReasonMissing):
            services.correct(user_id="ann", amount=5, reason=" ", by=ROOT, now=NOW)

    def test_may_take_all(self, ann: Account) -> None:
        services.deposit(user_id="ann", amount=1000, now=NOW)
        services.correct(user_id="ann", amount=-1000, reason="closed", by=ROOT, now=NOW)
        ann.refresh_from_db()
        assert ann.balance == 0

    def test_never_overdraws(self, ann: Account) -> None:
        with pytest.raises(services.InsufficientFunds):
            services.correct(user_id="ann", amount=-1, reason="wrong", by=ROOT, now=NOW)
        assert not Entry.objects.exists()

    def test_of_one_request_happens_once(self, ann: Account) -> None:
        services.open_account(user_id="bob")
        for _ in range(2):
            services.correct(user_id="ann", amount=5, reason="gift", by=ROOT, now=NOW, request_id="r1")
            services.deposit(user_id="ann", amount=7, now=NOW, request_id="r2")
        for refused in ({"amount": 8}, {"user_id": "bob"}):
            with pytest.raises(services.RequestIdReused):
                services.deposit(**{"user_id": "ann", "amount": 7} | refused, now=NOW, request_id="r2")  # type: ignore[arg-type]
        assert Account.objects.get(user_id="ann").balance == 12


class TestTheDatabase:
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE payments_entry SET amount = 1",
            "DELETE FROM payments_entry",
            "UPDATE payments_account SET balance = -1 WHERE kind = 'customer'",
            "UPDATE payments_account SET balance = 1 WHERE kind = 'system'",
            "INSERT INTO payments_entry"
            " (id, kind, amount, currency, order_id, reason, actor, request_id, at, source_id,"
            " target_id) SELECT gen_random_uuid(), kind, 0, currency, '', '', '', '', at, source_id, target_id"
            " FROM payments_entry",
        ],
    )
    def test_refuses(self, ann: Account, statement: str) -> None:
        services.deposit(user_id="ann", amount=100, now=NOW)
        with pytest.raises(IntegrityError), transaction.atomic("payments"), connections["payments"].cursor() as cursor:
            cursor.execute(statement)
        assert Entry.objects.get().amount == 100

    def test_refuses_a_second_charge(self, ann: Account) -> None:
        cash = ledger.system_account("cash", currency="USD")
        between = {"source": cash, "target": ann, "amount": 1, "currency": "USD"}
        same = {"kind": Entry.Kind.CHARGE, "order_id": "o", "at": NOW} | between
        Entry.objects.create(**same)
        with pytest.raises(IntegrityError), transaction.atomic("payments"):
            Entry.objects.create(**same)
