from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models


class Migration(migrations.Migration):
    """Webhook endpoints that clients look after themselves."""

    dependencies = [
        ("orders", "0019_refunds_validated"),
    ]

    operations = [
        migrations.AddField(
            model_name="webhookendpoint",
            name="description",
            field=models.CharField(blank=True, db_default="", default="", max_length=500, verbose_name="description"),
        ),
        migrations.AddField(
            model_name="webhookendpoint",
            name="deleted_at",
            field=models.DateTimeField(null=True, verbose_name="deleted at"),
        ),
        migrations.AlterField(
            model_name="webhookdelivery",
            name="order_id",
            field=models.CharField(blank=True, db_index=True, max_length=64, verbose_name="order id"),
        ),
        AddConstraintNotValid(
            model_name="webhookendpoint",
            constraint=models.CheckConstraint(
                condition=models.Q(("deleted_at", None), ("is_active", False), _connector="OR"),
                name="deleted_endpoint_is_off",
            ),
        ),
    ]
