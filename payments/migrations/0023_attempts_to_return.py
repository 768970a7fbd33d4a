from django.db import migrations, models


class Migration(migrations.Migration):
    """Money of no order goes back by as many attempts as it takes, each under a key of its own."""

    dependencies = [
        ("payments", "0022_payments_by_time"),
    ]

    operations = [
        migrations.AddField(
            model_name="webhookreceipt",
            name="failures",
            field=models.SmallIntegerField(
                db_default=0, default=0, verbose_name="attempts to return its money that failed"
            ),
        ),
        migrations.AddField(
            model_name="webhookreceipt",
            name="unanswered",
            field=models.SmallIntegerField(db_default=0, default=0, verbose_name="unanswered in a row"),
        ),
    ]
