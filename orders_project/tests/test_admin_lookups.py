"""No list of the back office answers questions about fields that it does not show."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.exceptions import DisallowedModelAdminLookup, DisallowedModelAdminToField
from django.contrib.auth.models import Permission, User
from django.db.models import Model
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone

from orders import webhook_endpoints
from orders_project.models import Client as OAuthClient

pytestmark = pytest.mark.django_db

PAGES = dict(admin.site._registry)
SECRET_NAMES = ("secret", "password", "sealed")


def list_url(model: type[Model]) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def paths(model: type[Model]) -> Iterator[str]:
    """The fields of a table, and the secrets of the tables that it is related to, in both directions."""
    for field in model._meta.get_fields():
        yield field.name
        if isinstance(field.related_model, type):
            far = (one.name for one in field.related_model._meta.concrete_fields)
            yield from (f"{field.name}__{name}" for name in far if name.endswith(SECRET_NAMES))


@pytest.fixture
def viewer() -> Client:
    """Somebody who may see every page and do nothing."""
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


def test_every_list_refuses_to_be_filtered_by_what_is_no_filter(rf: RequestFactory, viewer: Client) -> None:
    boss = User.objects.create_superuser("boss")
    for model, page in PAGES.items():
        url = list_url(model)
        assert viewer.get(url, {f"{model._meta.pk.name}__regex": "^a"}).status_code == 400
        for path in paths(model):
            asked = [{f"{path}__regex": "^a"}]
            if path.endswith(SECRET_NAMES):
                asked += [{"_to_field": path, "_popup": "1"}, {path: "a"}, {f"{path}__startswith": "a"}]
                shown = (*page.search_fields, *getattr(page, "search_by", ()), *page.list_display, page.date_hierarchy)
                assert path not in shown, f"{url}: it is searched, ordered or shown by {path}"
            for parameters in asked:
                request = rf.get(url, parameters)
                request.user = boss
                with pytest.raises((DisallowedModelAdminLookup, DisallowedModelAdminToField)):
                    page.get_changelist_instance(request)


class TestTheAttacks:
    @pytest.mark.parametrize("lookup", ["secret", "secret__regex", "secrets__sealed__gt", "previous_secret__gt"])
    def test_on_the_signing_secrets_of_webhooks(self, viewer: Client, settings: Any, lookup: str) -> None:
        settings.WEBHOOKS_ALLOW_LOOPBACK = True
        webhook_endpoints.register(url="http://127.0.0.1:9/", actor="root", now=timezone.now())
        answers = [viewer.get("/admin/orders/webhookendpoint/", {lookup: guess}) for guess in ("^whsec_", "^nothing")]
        assert {answer.status_code for answer in answers} <= {302, 400}  # 302: there is no such field
        one, other = (answer.content.replace(answer["X-Correlation-ID"].encode(), b"") for answer in answers)
        assert one == other or answers[0].status_code == 302

    @pytest.mark.parametrize("lookup", ["password__startswith", "password__regex", "logentry__user__password__gt"])
    def test_on_the_passwords_of_people(self, viewer: Client, lookup: str) -> None:
        assert viewer.get("/admin/auth/user/", {lookup: "m"}).status_code == 400

    def test_on_the_secrets_of_clients(self, viewer: Client) -> None:
        OAuthClient.objects.create(client_id="shop", client_secret="a-secret-of-a-client", scopes="orders:read")
        for lookup in ("client_secret__regex", "client_secret__startswith", "user__password__startswith"):
            assert viewer.get("/admin/orders_project/client/", {lookup: "m"}).status_code == 400


def test_no_page_shows_the_hash_of_a_secret(viewer: Client) -> None:
    client = OAuthClient.objects.create(client_id="shop", client_secret="a-secret-of-a-client", scopes="orders:read")
    page = viewer.get(f"/admin/orders_project/client/{client.pk}/change/")
    assert page.status_code == 200
    assert client.client_secret.split("$")[-1] not in page.content.decode()
    user = User.objects.create_superuser("boss", password="right-and-long")
    page = viewer.get(f"/admin/auth/user/{user.pk}/change/")
    assert page.status_code == 200
    assert user.password.split("$")[-1] not in page.content.decode()
