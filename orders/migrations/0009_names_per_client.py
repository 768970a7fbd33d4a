from django.db import migrations, models


class Migration(migrations.Migration):
    """The order ids that clients give, and webhook endpoints, belong to a client. Endpoints from before hear all orders."""

    dependencies = [
        ("orders", "0008_answers_to_the_letter"),
    ]

    operations = [
        migrations.CreateModel(
            name="PerformedAction",
            fields=[
                ("request_id", models.UUIDField(primary_key=True, serialize=False, verbose_name="request id")),
                (
                    "fingerprint",
                    models.CharField(
                        blank=True, db_default="", default="", max_length=64, verbose_name="request fingerprint"
                    ),
                ),
                ("performed_at", models.DateTimeField(verbose_name="performed at")),
            ],
            options={
                "abstract": False,
                "default_permissions": (),
            },
        ),
        migrations.RemoveIndex(
            model_name="webhookendpoint",
            name="webhook_endpoint_active",
        ),
        migrations.AddField(
            model_name="order",
            name="reference",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="unique for this client only",
                max_length=64,
                verbose_name="the client's order id",
            ),
        ),
        migrations.AddField(
            model_name="webhookendpoint",
            name="hears_all",
            field=models.BooleanField(db_default=False, default=False, verbose_name="all clients"),
        ),
        migrations.AddField(
            model_name="webhookendpoint",
            name="principal",
            field=models.CharField(blank=True, db_default="", default="", max_length=100, verbose_name="client"),
        ),
        migrations.AddIndex(
            model_name="idempotencykey",
            index=models.Index(fields=["principal"], name="orders_answers_of_client"),
        ),
        migrations.AddIndex(
            model_name="webhookendpoint",
            index=models.Index(
                condition=models.Q(("is_active", True)), fields=["principal"], name="webhook_endpoint_active"
            ),
        ),
        migrations.AddConstraint(
            model_name="order",
            constraint=models.UniqueConstraint(
                condition=models.Q(("reference", ""), _negated=True),
                fields=("reference", "principal"),
                name="one_order_per_reference_and_principal",
            ),
        ),
        migrations.RunSQL("UPDATE orders_webhookendpoint SET hears_all = true", migrations.RunSQL.noop),
        migrations.AddConstraint(
            model_name="webhookendpoint",
            constraint=models.CheckConstraint(
                condition=models.Q(("hears_all", False), ("principal", ""), _connector="OR"),
                name="endpoint_of_one_client_or_of_all",
            ),
        ),
    ]
