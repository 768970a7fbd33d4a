"""The signing secrets of webhooks: shown once, readable nowhere else, and encrypted with keys that can be rotated."""

import importlib
import re
from datetime import timedelta
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import Client
from django.utils import timezone

from common import encryption
from common.audit import Scope
from common.principal import Principal
from orders import webhook_endpoints, webhook_secrets
from orders.admin import ALL_CLIENTS
from orders.audit import RULES
from orders.models import WebhookEndpoint, WebhookSecret

ROOT = Principal("root", sees_all=True)
pytestmark = pytest.mark.django_db

URL = "http://127.0.0.1:9/hook"


@pytest.fixture(autouse=True)
def loopback(settings: Any) -> None:
    settings.WEBHOOKS_ALLOW_LOOPBACK = True


@pytest.fixture
def endpoint() -> WebhookEndpoint:
    return webhook_endpoints.register(url=URL, actor="root", now=timezone.now())


def signing(endpoint: WebhookEndpoint) -> list[str]:
    return webhook_secrets.valid(endpoint_id=endpoint.pk, now=timezone.now())


def by_the_version_before(endpoint: WebhookEndpoint, *, secret: str, previous: str = "") -> None:
    """Write the secret as processes of the version before do."""
    with connections["orders"].cursor() as cursor:
        cursor.execute(
            "UPDATE orders_webhookendpoint SET secret = %s, previous_secret = %s, previous_until = now() + '1 hour'"
            " WHERE id = %s",
            [secret, previous, endpoint.pk],
        )


def stored_texts() -> str:
    """All that the tables of orders and of the back office say about endpoints, actions and sessions."""
    tables = {
        "orders": ("orders_webhookendpoint", "orders_webhooksecret"),
        "default": ("django_admin_log", "django_session", "orders_project_performedaction"),
    }
    texts = []
    for database, names in tables.items():
        with connections[database].cursor() as cursor:
            for name in names:
                cursor.execute(f"SELECT t::text FROM {name} t")
                texts += [text for (text,) in cursor.fetchall()]
    return "\n".join(texts)


class TestThePageThatShowsASecret:
    @pytest.fixture
    def boss(self) -> Client:
        client = Client()
        client.force_login(User.objects.create_superuser("boss"))
        return client

    @pytest.mark.parametrize("action", ["register", "rotate"])
    def test_shows_it_once_and_leaves_it_nowhere(self, boss: Client, endpoint: WebhookEndpoint, action: str) -> None:
        row = "" if action == "register" else f"{endpoint.pk}/"
        path = f"/admin/orders/webhookendpoint/{row}do/{action}/"
        form = {"once": str(uuid4()), "url": URL, "client": ALL_CLIENTS}
        page = boss.post(path, form)
        assert page.status_code == 200, page.content
        (secret,) = re.findall(r"whsec_[A-Za-z0-9+/=]+", page.content.decode().replace("&#x3D;", "="))
        assert "no-store" in page["Cache-Control"]
        assert secret == signing(WebhookEndpoint.objects.order_by("id").last() or endpoint)[0]
        assert set(page.cookies) <= {"csrftoken"}
        again = boss.post(path, form, follow=True)
        assert secret not in again.content.decode()
        assert "was already done" in again.content.decode()
        assert not any(secret in cookie.value for cookie in boss.cookies.values())
        assert secret not in stored_texts()
        assert LogEntry.objects.count() == 1

    def test_is_the_only_one(self, boss: Client, endpoint: WebhookEndpoint) -> None:
        for path in ("", f"{endpoint.pk}/change/", f"{endpoint.pk}/history/"):
            shown = boss.get(f"/admin/orders/webhookendpoint/{path}").content.decode()
            assert "whsec_" not in shown
            assert WebhookSecret.objects.get().sealed not in shown


class TestTheKey:
    def test_encrypts_with_the_newest_and_reads_with_all(self, settings: Any, endpoint: WebhookEndpoint) -> None:
        settings.ENCRYPTION_KEYS = ["the newest key of all that there are", *settings.ENCRYPTION_KEYS]
        assert signing(endpoint) == [endpoint.new_secret]
        call_command("reencrypt_secrets", stdout=StringIO())
        settings.ENCRYPTION_KEYS = settings.ENCRYPTION_KEYS[:1]
        assert signing(endpoint) == [endpoint.new_secret]

    def test_is_needed_to_read(self, settings: Any, endpoint: WebhookEndpoint) -> None:
        settings.ENCRYPTION_KEYS = ["another key, of another installation"]
        with pytest.raises(encryption.NotReadable):
            signing(endpoint)
        with pytest.raises(CommandError, match="Put the key that encrypted it back"):
            call_command("reencrypt_secrets")
        settings.ENCRYPTION_KEYS = ["dev-encryption-key"]
        assert signing(endpoint) == [endpoint.new_secret]


class TestARotation:
    def test_keeps_one_previous_secret_for_a_day(self, endpoint: WebhookEndpoint) -> None:
        second, third = (
            webhook_endpoints.rotate(endpoint_id=str(endpoint.pk), principal=ROOT, now=timezone.now()).new_secret
            for _ in range(2)
        )
        assert signing(endpoint) == [third, second]
        later = timezone.now() + webhook_secrets.OVERLAP
        assert webhook_secrets.valid(endpoint_id=endpoint.pk, now=later) == [third]


class TestSecretsOfTheVersionBefore:
    @pytest.fixture
    def old(self) -> WebhookEndpoint:
        """An endpoint that a process of the version before has registered and given a new secret."""
        endpoint = WebhookEndpoint.objects.create(url=URL, created_at=timezone.now())
        by_the_version_before(endpoint, secret="whsec_second", previous="whsec_first")
        return endpoint

    @pytest.mark.parametrize("embedded", [True, False])
    def test_are_encrypted_by_the_migration(self, settings: Any, old: WebhookEndpoint, embedded: bool) -> None:
        settings.EMBEDDED = embedded
        migration = importlib.import_module("orders.migrations.0013_encrypt_webhook_secrets")
        migration.encrypt(apps, connections["orders"].schema_editor())
        assert signing(old) == ["whsec_second", "whsec_first"]
        # Processes of the version before go on reading the columns; an embedded run has none.
        assert ("whsec_second" in stored_texts()) != embedded
        call_command("reencrypt_secrets", stdout=StringIO())
        assert "whsec_" not in stored_texts()
        assert signing(old) == ["whsec_second", "whsec_first"]

    def test_sign_when_they_were_made_after_the_migration(self, old: WebhookEndpoint) -> None:
        assert signing(old) == ["whsec_second", "whsec_first"]
        assert not WebhookSecret.objects.exists()  # whoever signs may only read

    def test_are_taken_over_when_they_replaced_one_of_ours(self, endpoint: WebhookEndpoint) -> None:
        by_the_version_before(endpoint, secret="whsec_second")
        call_command("reencrypt_secrets", stdout=StringIO())
        assert signing(endpoint) == ["whsec_second", endpoint.new_secret]

    def test_are_found_by_the_audit_while_they_are_readable(self, old: WebhookEndpoint) -> None:
        (rule,) = (rule for rule in RULES if rule.name == "webhook_secrets")
        scope = Scope(now=timezone.now(), window=timedelta(days=1), grace=timedelta(0))
        assert [finding.subject for finding in rule.check(scope)] == [str(old.pk)]
        call_command("reencrypt_secrets", stdout=StringIO())
        assert list(rule.check(scope)) == []
