from django.db import migrations, models


class Migration(migrations.Migration):
    """Webhooks are about refunds and disputes, too."""

    dependencies = [
        ("payments", "0011_entries_of_parts"),
    ]

    operations = [
        migrations.AddField(
            model_name="webhookreceipt",
            name="about",
            field=models.CharField(
                choices=[("payment", "payment"), ("refund", "refund"), ("dispute", "dispute")],
                db_default="payment",
                default="payment",
                max_length=10,
                verbose_name="about",
            ),
        ),
    ]
