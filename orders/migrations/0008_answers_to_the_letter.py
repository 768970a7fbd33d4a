from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orders", "0007_webhook_delivery_due"),
    ]

    operations = [
        migrations.AlterField(
            model_name="idempotencykey",
            name="answer",
            field=models.TextField(blank=True, default="", verbose_name="answer"),
            preserve_default=False,
        ),
    ]
