import django.db.models.deletion
from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models


class Migration(migrations.Migration):
    """Webhook endpoints belong to a client, those from before hear all orders; their secrets get a table of their own."""

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
        migrations.AddField(
            model_name="webhookendpoint",
            name="hears_all",
            field=models.BooleanField(db_default=True, default=False, verbose_name="all clients"),
        ),
        migrations.AddField(
            model_name="webhookendpoint",
            name="principal",
            field=models.CharField(blank=True, db_default="", default="", max_length=100, verbose_name="client"),
        ),
        AddConstraintNotValid(
            model_name="webhookendpoint",
            constraint=models.CheckConstraint(
                condition=models.Q(("hears_all", False), ("principal", ""), _connector="OR"),
                name="endpoint_of_one_client_or_of_all",
            ),
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
    ]
