"""
The secrets that sign webhooks, encrypted in a table of their own that no page and no list reads.

A secret is returned once, to whoever has it made. Afterwards it only signs.
"""

import base64
import secrets
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import connections, transaction
from django.db.models import Q

from common import encryption, signing

from .webhook_models import WebhookSecret

OVERLAP = timedelta(days=1)  # how long the previous secret signs too after a rotation


def issue(*, endpoint_id: UUID, now: datetime) -> str:
    """
    Make a new secret for an endpoint and return it. The one before signs for another day; older ones are deleted.

    Call it in a transaction of orders that holds the lock on the endpoint.
    """
    secret = signing.PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
    _store(endpoint_id, secret, now=now)
    if settings.UPGRADING:
        with connections["orders"].cursor() as cursor:
            cursor.execute(READABLE, [now + OVERLAP, secret, endpoint_id])
    return secret


# For processes of the version before: see Note [Until the columns are dropped].
READABLE = """
UPDATE orders_webhookendpoint
SET previous_secret = secret, previous_until = CASE WHEN secret <> '' THEN %s::timestamptz END, secret = %s
WHERE id = %s
"""


def _store(endpoint_id: UUID, secret: str, *, now: datetime) -> None:
    of_endpoint = WebhookSecret.objects.filter(endpoint_id=endpoint_id)
    of_endpoint.filter(expires_at__isnull=False).delete()
    of_endpoint.update(expires_at=now + OVERLAP)
    WebhookSecret.objects.create(endpoint_id=endpoint_id, sealed=encryption.encrypt(secret), created_at=now)


def forget(*, endpoint_id: UUID) -> None:
    """Erase the secrets of an endpoint, those that processes of the version before read too."""
    WebhookSecret.objects.filter(endpoint_id=endpoint_id).delete()
    with connections["orders"].cursor() as cursor:
        cursor.execute(
            "UPDATE orders_webhookendpoint SET secret = '', previous_secret = '' WHERE id = %s AND secret <> ''",
            [endpoint_id],
        )


def valid(*, endpoint_id: UUID, now: datetime) -> list[str]:
    """
    The secrets that sign for an endpoint now, the newest first.

    :raises NotReadable: if they were encrypted with a key that is not in ENCRYPTION_KEY
    """
    current = Q(expires_at=None) | Q(expires_at__gt=now)
    rows = WebhookSecret.objects.filter(current, endpoint_id=endpoint_id).order_by("-id")
    ours = [encryption.decrypt(row.sealed) for row in rows]
    if ours and not settings.UPGRADING:
        return ours
    return list(dict.fromkeys([*_readable(endpoint_id, now=now), *ours]))


def _readable(endpoint_id: UUID, *, now: datetime) -> list[str]:
    """
    The secrets that sign for an endpoint as processes of the version before know them, the newest first.

    They are only read: the worker that signs may write no secrets.
    """
    with connections["orders"].cursor() as cursor:
        cursor.execute(
            "SELECT secret, CASE WHEN previous_until > %s THEN previous_secret ELSE '' END"
            " FROM orders_webhookendpoint WHERE id = %s",
            [now, endpoint_id],
        )
        return [secret for row in cursor.fetchall() for secret in row if secret]


@transaction.atomic(using="orders")
def reencrypt(*, now: datetime) -> int:
    """
    Encrypt all secrets with the newest key, and return how many there are.

    Secrets that the version before has left in readable columns move here and are erased there.

    :raises NotReadable: if one was encrypted with a key that is not in ENCRYPTION_KEY; then all stay as they are
    """
    _take_over(now=now)
    rows = list(WebhookSecret.objects.select_for_update())
    for row in rows:
        row.sealed = encryption.encrypt(encryption.decrypt(row.sealed))
    WebhookSecret.objects.bulk_update(rows, ["sealed"], batch_size=500)
    with connections["orders"].cursor() as cursor:
        cursor.execute("UPDATE orders_webhookendpoint SET secret = '', previous_secret = '' WHERE secret <> ''")
    return len(rows)


@transaction.atomic(using="orders")
def _take_over(*, now: datetime) -> None:
    """
    Store the secrets that processes of the version before have written since the migration.

    # Note [Until the columns are dropped]: such processes read and write readable columns, and may run beside ours
    # while a new version is rolled out. So during an upgrade both are written, and both are looked at. `reencrypt`
    # erases the columns, and is run once they have ended.
    """
    with connections["orders"].cursor() as cursor:
        cursor.execute("SELECT id, secret FROM orders_webhookendpoint WHERE secret <> '' FOR UPDATE")
        for endpoint, secret in cursor.fetchall():
            stored = WebhookSecret.objects.filter(endpoint_id=endpoint)
            if secret not in (encryption.decrypt(row.sealed) for row in stored):
                _store(endpoint, secret, now=now)
