import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

from common import encryption

READABLE = (
    "SELECT id, secret, previous_secret, previous_until, created_at FROM orders_webhookendpoint WHERE secret <> ''"
)


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
        ("orders", "0010_deadlines"),
    ]

    operations = [
        migrations.CreateModel(
            name="WebhookSecret",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("sealed", models.TextField(verbose_name="encrypted secret")),
                ("created_at", models.DateTimeField(verbose_name="created at")),
                ("expires_at", models.DateTimeField(null=True, verbose_name="signs until")),
                (
                    "endpoint",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="secrets",
                        to="orders.webhookendpoint",
                        verbose_name="webhook endpoint",
                    ),
                ),
            ],
            options={
                "verbose_name": "webhook secret",
                "verbose_name_plural": "webhook secrets",
                "default_permissions": (),
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("expires_at", None)),
                        fields=("endpoint",),
                        name="one_current_webhook_secret",
                    )
                ],
            },
        ),
        # The columns stay for processes of the version before, and are dropped one version later.
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RemoveField(model_name="webhookendpoint", name="secret"),
                migrations.RemoveField(model_name="webhookendpoint", name="previous_secret"),
                migrations.RemoveField(model_name="webhookendpoint", name="previous_until"),
            ],
            database_operations=[
                migrations.RunSQL(
                    "ALTER TABLE orders_webhookendpoint"
                    " ALTER COLUMN secret SET DEFAULT '', ALTER COLUMN previous_secret SET DEFAULT ''",
                    "ALTER TABLE orders_webhookendpoint"
                    " ALTER COLUMN secret DROP DEFAULT, ALTER COLUMN previous_secret DROP DEFAULT",
                ),
            ],
        ),
        migrations.RunPython(encrypt, migrations.RunPython.noop, elidable=True),
    ]
