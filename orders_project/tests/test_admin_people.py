"""Colleagues and clients of the API: made in one form each, and their history says what was changed."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.hashers import check_password
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse

from common.principal import SCOPES
from orders_project.models import Client as ApiClient
from orders_project.tests.test_admin_actions import client_of, do
from processing import services as stock

pytestmark = pytest.mark.django_db


class TestAColleague:
    def test_is_made_in_one_form_and_can_work(self, boss: Client) -> None:
        add = reverse("admin:auth_user_add")
        assert "helps orders on their way" in boss.get(add).content.decode()
        values = {
            "username": "eve", "groups": [Group.objects.get(name="operator").pk], "usable_password": "true",
            "password1": "a long pass phrase", "password2": "a long pass phrase",
        }  # fmt: skip
        assert boss.post(add, values | {"groups": []}).status_code == 200  # without a role one can do nothing
        assert boss.post(add, values).status_code == 302
        eve = User.objects.get(username="eve")
        assert (eve.is_staff, eve.is_superuser, [group.name for group in eve.groups.all()]) == (
            True,
            False,
            ["operator"],
        )
        client = Client()
        assert client.login(username="eve", password="a long pass phrase")
        assert client.get(reverse("admin:orders_order_changelist")).status_code == 200

    def test_has_a_history_with_old_and_new_values(self, boss: Client) -> None:
        eve = User.objects.create_user("eve", is_staff=True)
        eve.groups.add(Group.objects.get(name="viewer"))
        change = reverse("admin:auth_user_change", args=[eve.pk])
        values = {"username": "eve", "email": "eve@example.com", "is_active": "on", "is_staff": "on"}
        assert boss.post(change, values | {"groups": [Group.objects.get(name="manager").pk]}).status_code == 302
        said = LogEntry.objects.get().get_change_message()
        assert "Email address (– → eve@example.com)" in said
        assert "Roles (viewer → manager)" in said

    def test_is_not_deleted_with_the_log_of_what_they_did(self, boss: Client) -> None:
        eve = User.objects.create_user("eve")
        assert boss.post(reverse("admin:auth_user_delete", args=[eve.pk]), {"post": "yes"}).status_code == 403


def test_a_role_is_offered_only_what_a_page_asks_for(boss: Client) -> None:
    page = boss.get(reverse("admin:auth_group_add")).content.decode()
    assert "sees: orders (Orders)" in page
    assert "may: cancel an order" in page
    assert "changes: users (Authentication and Authorization)" in page
    assert "Can " not in page  # neither add nor change tables that only the system writes


def test_a_role_is_deleted_by_a_button_that_says_so(boss: Client) -> None:
    role = Group.objects.create(name="day shift")
    delete = reverse("admin:auth_group_delete", args=[role.pk])
    page = boss.get(delete).content.decode()
    assert 'value="Delete group"' in page
    assert "Keep group" in page
    assert boss.post(delete, {"post": "yes"}).status_code == 302
    assert not Group.objects.filter(pk=role.pk).exists()


def test_the_log_of_an_action_has_old_and_new_values() -> None:
    from django.utils import timezone

    lamp = stock.make_product(name="Lamp", sku="lamp", price=5_00, stock=1, actor="", now=timezone.now())
    assert do(client_of("manager"), lamp, "edit", price="7.50", is_active="").status_code == 302
    said = LogEntry.objects.get().change_message
    assert said == "Edit the product. Name: Lamp; Price: 5.00 → 7.50; For sale: True → False."


class TestAClientOfTheApi:
    @pytest.fixture
    def admin(self) -> Client:
        client = client_of("manager")
        user = User.objects.get(username="manager")
        user.user_permissions.add(Permission.objects.get(codename="edit_client"))
        return client

    def make(self, admin: Client, **values: Any) -> Any:
        add = reverse("admin:orders_project_client_list_action", args=["create"])
        form = admin.get(add).context["form"]
        return admin.post(add, {"once": form["once"].value(), "client_id": "shop", "scopes": ["orders:read"]} | values)

    def test_gets_what_works_here_and_a_secret_that_is_shown_once(self, admin: Client) -> None:
        secret = self.make(admin, scopes=["orders:read", "orders:write"]).context["secret"].value
        made = ApiClient.objects.get(client_id="shop")
        assert (made.authorization_grant_type, made.client_type) == ("client-credentials", "confidential")
        assert made.scopes == "orders:read orders:write"
        assert check_password(secret, made.client_secret)
        renewed = do(admin, made, "secret").context["secret"].value
        made.refresh_from_db()
        assert (check_password(renewed, made.client_secret), check_password(secret, made.client_secret)) == (
            True,
            False,
        )
        assert not LogEntry.objects.filter(change_message__contains=renewed).exists()

    @pytest.mark.parametrize("values", [{"client_id": "a shop"}, {"scopes": ["everything"]}, {"scopes": []}])
    def test_is_refused_if_it_could_not_work(self, admin: Client, values: Any) -> None:
        assert self.make(admin, **values).status_code == 422
        assert not ApiClient.objects.exists()

    def test_is_made_once(self, admin: Client) -> None:
        self.make(admin)
        assert "client_exists" in self.make(admin).content.decode()

    def test_is_made_by_no_built_in_role(self) -> None:
        add = reverse("admin:orders_project_client_list_action", args=["create"])
        assert client_of("manager").get(add).status_code == 403

    def test_is_offered_every_scope_that_there_is(self, admin: Client) -> None:
        page = admin.get(reverse("admin:orders_project_client_list_action", args=["create"])).content.decode()
        assert all(scope in page for scope in SCOPES)
