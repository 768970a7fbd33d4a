"""The back office: every page of every service opens, over all the databases."""

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from common.authority import Authority
from orders import services
from payments import services as money
from processing import services as stock

pytestmark = pytest.mark.django_db


@pytest.fixture
def orders(post: Any) -> list[Any]:
    """Some orders, with rows in all services."""
    now = timezone.now()
    money.open_account(user_id="ann")
    money.deposit(user_id="ann", amount=100_00, now=now, reason="first", by=Authority("boss"))
    lamp = stock.make_product(name="Lamp", sku="lamp", price=5_00, stock=10, actor="boss", now=now)
    line = services.Line(quantity=1, product_id=str(lamp.product_id))
    placed = [
        services.place_order(new=services.NewOrder(lines=(line,), user_id="ann"), now=timezone.now())[0]
        for _ in range(3)
    ]
    post.run()
    return placed


def test_every_page_opens(boss: Client, orders: list[Any]) -> None:
    status_of = {}
    for model in admin.site._registry:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        answer = boss.get(where := reverse(f"{name}_changelist"))
        status_of[where] = answer.status_code
        for row in answer.context["cl"].result_list[:1] if answer.context else ():
            page = reverse(f"{name}_change", args=[row.pk])
            status_of[page] = boss.get(page).status_code
    assert not {page: status for page, status in status_of.items() if status != 200}


class TestRoles:
    def test_are_created_by_the_migrations(self) -> None:
        roles = {group.name: set(group.permissions.values_list("codename", flat=True)) for group in Group.objects.all()}
        assert roles["viewer"] < roles["operator"] < roles["manager"]
        assert "view_order" in roles["viewer"]
        assert {name for name in roles["viewer"] if not name.startswith("view_")} == set()
        assert "cancel_order" in roles["operator"]
        assert roles["manager"] - roles["operator"] >= {"approve", "correct_account"}

    def test_a_viewer_sees_everything_but_the_users(self, orders: list[Any]) -> None:
        viewer = User.objects.create_user("viewer", is_staff=True)
        viewer.groups.add(Group.objects.get(name="viewer"))
        client = Client()
        client.force_login(viewer)
        assert client.get(reverse("admin:orders_order_changelist")).status_code == 200
        assert client.get(reverse("admin:orders_order_change", args=[orders[0].pk])).status_code == 200
        assert client.get(reverse("admin:auth_user_changelist")).status_code == 403

    def test_the_shop_sees_nothing_of_the_platform(self, orders: list[Any]) -> None:
        user = User.objects.create_user("shop", is_staff=True)
        user.groups.add(Group.objects.get(name="shop"))
        client = Client()
        client.force_login(user)
        page = client.get(reverse("admin:orders_order_change", args=[orders[0].pk]))
        assert page.status_code == 200
        assert [section["app_label"] for section in page.context["available_apps"]] == ["shop", "books"]
        for name in ("payments_refund", "processing_product", "payments_entry"):
            assert client.get(reverse(f"admin:{name}_changelist")).status_code == 200
        for name in ("orders_outgoing", "orders_deadletter", "orders_webhookendpoint", "auth_user"):
            assert client.get(reverse(f"admin:{name}_changelist")).status_code == 403
        dashboard = client.get(reverse("admin:index"))
        titles = [str(section.title) for section in dashboard.context["sections"]]
        assert titles[:2] == ["Needs a person", "Orders in progress"]
        assert not {"Messages due but not sent", "Dead letters", "Health"} & set(titles)
        assert reverse("admin:dead_letters") not in dashboard.text
        links = [tile.url for section in dashboard.context["sections"] for tile in section.tiles if tile.url]
        assert links
        assert not {url for url in links if client.get(url).status_code != 200}


@pytest.mark.django_db(transaction=True)
def test_granted_permissions_survive_the_rename_of_their_model() -> None:
    def migrate(*target: str) -> None:
        call_command("migrate", "orders_project", *target, database="default", verbosity=0, skip_checks=True)

    migrate("0003_edit_endpoint")
    try:
        role = Group.objects.create(name="night shift")
        role.permissions.add(Permission.objects.get(codename="replay_letter", content_type__model="verb"))
    finally:
        migrate()
    kept = Permission.objects.get(codename="replay_letter")
    assert (kept.group_set.filter(name="night shift").exists(), kept.content_type.model) == (True, "operatorpermission")
