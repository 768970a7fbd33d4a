from django.conf import settings
from django.db import migrations

from common import encryption

READABLE = """
SELECT id, secret, previous_secret, previous_until, created_at FROM orders_webhookendpoint endpoint
WHERE secret <> '' AND NOT EXISTS (SELECT FROM orders_webhooksecret WHERE endpoint_id = endpoint.id)
"""


def encrypt(apps, schema_editor):
    """
    Copy the secrets of all endpoints, encrypted.

    Processes of the version before go on with the readable columns: `manage.py reencrypt_secrets` erases them
    afterwards. An embedded run has no such processes.
    """
    secrets = apps.get_model("orders", "WebhookSecret").objects.using("orders")
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(READABLE)
        for endpoint, secret, previous, until, created_at in cursor.fetchall():
            if previous and until is not None:
                sealed = encryption.encrypt(previous)
                secrets.create(endpoint_id=endpoint, sealed=sealed, created_at=created_at, expires_at=until)
            secrets.create(endpoint_id=endpoint, sealed=encryption.encrypt(secret), created_at=created_at)
        if settings.EMBEDDED:
            cursor.execute("UPDATE orders_webhookendpoint SET secret = '', previous_secret = ''")


class Migration(migrations.Migration):
    dependencies = [
        ("orders", "0012_indexes"),
    ]

    operations = [migrations.RunPython(encrypt, migrations.RunPython.noop, elidable=True)]
