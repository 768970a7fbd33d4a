from django.db import migrations, models


class Migration(migrations.Migration):
    """Any action can wait for approval. What waits already names no version: it ends here, and can be asked for again."""

    dependencies = [
        ("orders_project", "0004_operator_permissions"),
    ]

    operations = [
        migrations.AddField(
            model_name="approval",
            name="call",
            field=models.JSONField(db_default={}, default=dict, verbose_name="values"),
        ),
        migrations.AddField(
            model_name="performedaction",
            name="fingerprint",
            field=models.CharField(
                blank=True, db_default="", default="", max_length=64, verbose_name="request fingerprint"
            ),
        ),
        migrations.RunSQL(
            "UPDATE orders_project_approval SET status = 'rejected', decided_by = 'upgrade', decided_at = now()"
            " WHERE status = 'waiting'",
            migrations.RunSQL.noop,
        ),
        migrations.RunSQL(
            "UPDATE orders_project_approval SET verb = CASE verb WHEN 'compensate_order' THEN 'orders.order.compensate'"
            " ELSE 'payments.webhookreceipt.refund' END WHERE verb IN ('compensate_order', 'refund_webhook')",
            migrations.RunSQL.noop,
        ),
    ]
