"""What is not done while processes of the release before run (`UPGRADING`), and what the database does for them."""

from datetime import timedelta
from typing import Any

import pytest
import yaml
from django.db import connections
from django.utils import timezone

from common.errors import NotDuringUpgrade
from common.principal import Principal
from orders import saga, services, webhook_endpoints, webhook_secrets
from orders.models import Order, Status, WebhookEndpoint
from orders_project import contracts
from orders_project.contracts import asyncapi
from orders_project.observability import status
from orders_project.tests.test_returns import Stub, paid_and_canceled, stub
from orders_project.tests.test_webhook_secrets import URL, by_the_version_before
from outbox.message import REGISTRY
from payments import services as money
from payments.models import Payment

__all__ = ["stub"]

ROOT = Principal("root", sees_all=True)
pytestmark = pytest.mark.django_db

BEFORE = contracts.RELEASED / "1.0.0" / "asyncapi.yaml"


@pytest.fixture(autouse=True)
def upgrading(settings: Any) -> None:
    settings.UPGRADING = settings.OUTBOX_WITHHOLDS = True
    settings.WEBHOOKS_ALLOW_LOOPBACK = True


def columns_of_the_release_before(endpoint: WebhookEndpoint) -> tuple[str, str]:
    with connections["orders"].cursor() as cursor:
        cursor.execute("SELECT secret, previous_secret FROM orders_webhookendpoint WHERE id = %s", [endpoint.pk])
        found: tuple[str, str] = cursor.fetchone()
    return found


def order_of(client: str, *, amount: int = 5, order_id: str = "ord-1") -> Order:
    line = services.Line(quantity=1, price=amount)
    new = services.NewOrder(lines=(line,), order_id=order_id, user_id="ann", principal=client)
    return services.place_order(new=new, now=timezone.now())[0]


class TestMessages:
    def test_have_the_fields_alone_that_the_release_before_reads(self) -> None:
        """It refuses a field that it does not know."""
        schemas = yaml.safe_load(BEFORE.read_text())["components"]["schemas"]
        compared = set()
        for kind in asyncapi.between_services():
            fields = set(kind.__dataclass_fields__) - set(kind.withheld)  # type: ignore[attr-defined]
            if (schema := schemas.get("".join(map(str.title, kind.name.replace("_", ".").split("."))))) is not None:
                assert fields <= schema["properties"].keys(), kind.name
                compared.add(kind.name)
        assert {"payments.charge", "processing.process", "payments.refund_receipt"} <= compared

    def test_of_a_new_type_are_known_to_be_withheld(self) -> None:
        """Whoever adds one makes sure that it is not posted while `UPGRADING`, and names it here."""
        released = yaml.safe_load(BEFORE.read_text())["components"]["messages"]
        new = {kind.name for kind in asyncapi.between_services()} - released.keys()
        assert new == {
            "payment.return_refused",  # TestMoney.test_that_is_not_returned_is_asked_for_again
            # Only for orders that are captured on request or by policy, which are refused or not made meanwhile.
            "payment.authorized",
            "payments.capture",
            "processing.keep_hold",
            # Refunds of orders that stay are refused meanwhile, and webhooks about refunds and disputes wait.
            "payments.refund_part",
            "payments.call_for_refund",
            "refund.succeeded",
            "refund.failed",
            "payment.disputed",
            "payment.return_undone",
            "processing.take_back",
        }

    def test_do_without_what_is_withheld(self, post: Any) -> None:
        for kind in REGISTRY.values():
            defaults = {name: field.default for name, field in kind.__dataclass_fields__.items()}  # type: ignore[attr-defined]
            assert all(defaults[name] in (None, "") for name in kind.withheld), kind.name
        money.open_account(user_id="ann", principal="shop")
        money.deposit(user_id="ann", amount=100, principal="shop", now=timezone.now())
        order = order_of("shop")
        post.run()
        order.refresh_from_db()
        assert order.status == Status.DONE

    def test_withhold_nothing_otherwise(self, settings: Any) -> None:
        settings.OUTBOX_WITHHOLDS = False
        assert "deadline" in saga.charge(order_of("shop")).data


class TestAnOrder:
    def test_is_stored_under_the_id_that_its_client_gives(self) -> None:
        """The release before finds it by nothing else, and would place it again."""
        order = order_of("shop")
        assert (order.order_id, order.reference) == ("ord-1", "")
        assert order_of("shop").pk == order.pk
        with pytest.raises(services.OrderExists):
            order_of("shop", amount=6)

    def test_of_another_client_may_have_the_same_id(self) -> None:
        assert order_of("shop").pk != (other := order_of("spy")).pk
        assert other.shown_id == "ord-1"
        assert order_of("spy").pk == other.pk

    def test_stays_the_same_when_the_upgrade_is_over(self, settings: Any) -> None:
        order = order_of("shop")
        settings.UPGRADING = False
        assert order_of("shop").pk == order.pk

    def test_is_in_its_status_since_the_release_before_has_changed_it(self) -> None:
        """Otherwise its deadline would be that of the status before."""
        order = order_of("shop")
        now = timezone.now() + timedelta(minutes=10)
        with connections["orders"].cursor() as cursor:
            sql = "UPDATE orders_order SET status = 'paid', version = version + 1, updated_at = %s WHERE order_id = %s"
            cursor.execute(sql, [now, order.pk])
        order.refresh_from_db()
        assert order.status_since == now


class TestAWebhookEndpoint:
    def test_has_its_secret_where_the_release_before_looks_too(self) -> None:
        endpoint = webhook_endpoints.register(url=URL, hears_all=True, actor="root", now=timezone.now())
        first = endpoint.new_secret
        assert columns_of_the_release_before(endpoint) == (first, "")
        second = webhook_endpoints.rotate(endpoint_id=str(endpoint.pk), principal=ROOT, now=timezone.now()).new_secret
        assert columns_of_the_release_before(endpoint) == (second, first)
        assert webhook_secrets.valid(endpoint_id=endpoint.pk, now=timezone.now()) == [second, first]

    def test_signs_with_a_secret_that_the_release_before_has_made(self) -> None:
        endpoint = webhook_endpoints.register(url=URL, hears_all=True, actor="root", now=timezone.now())
        by_the_version_before(endpoint, secret="whsec_second", previous=endpoint.new_secret)
        valid = webhook_secrets.valid(endpoint_id=endpoint.pk, now=timezone.now())
        assert valid == ["whsec_second", endpoint.new_secret]

    def test_of_one_client_is_not_registered(self) -> None:
        """The release before would send it the orders of all clients."""
        with pytest.raises(NotDuringUpgrade):
            webhook_endpoints.register(url=URL, principal="shop", actor="root", now=timezone.now())

    def test_that_the_release_before_registers_hears_of_everybody(self) -> None:
        with connections["orders"].cursor() as cursor:
            cursor.execute(
                "INSERT INTO orders_webhookendpoint (id, url, events, is_active, disabled_because, created_by,"
                " created_at, secret, previous_secret)"
                " VALUES (gen_random_uuid(), %s, '[]', true, '', 'root', now(), 'whsec_x', '')",
                [URL],
            )
        assert WebhookEndpoint.objects.get().hears_all


def test_the_status_reminds_of_it() -> None:
    (trouble,) = status._troubles(status.Status(services=[], queues=[], broker=""))
    assert trouble.startswith("UPGRADING is set")


class TestMoney:
    def test_that_is_not_returned_is_asked_for_again(self, stub: Stub, post: Any) -> None:
        """The release before knows no refusal: neither as the status of a payment nor as a message."""
        stub.refuses = "charge_disputed"
        order = paid_and_canceled(post)
        payment = Payment.objects.get()
        assert (payment.status, order.status) == ("refunding", "refunding")
        assert payment.ask_at is not None

    def test_is_asked_for_under_the_names_that_the_release_before_uses(
        self, stub: Stub, post: Any, settings: Any
    ) -> None:
        """Otherwise the gateway would be asked for it twice."""
        settings.INSTALLATION = "shop-a"
        paid_and_canceled(post)
        assert [key for call, key in stub.calls if call == "create"] == ["o.charge"]

    def test_is_on_one_account_of_each_name(self) -> None:
        """The release before finds an account by its name."""
        account, _ = money.open_account(user_id="ann", principal="shop")
        with pytest.raises(money.AccountTaken):
            money.open_account(user_id="ann", principal="spy")
        assert money.open_account(user_id="ann", principal="shop") == (account, False)
