from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orders", "0013_encrypt_webhook_secrets"),
    ]

    operations = [
        migrations.AddField(
            model_name="order",
            name="metadata",
            field=models.JSONField(
                blank=True,
                db_default={},
                default=dict,
                help_text="texts of the client, given back as they are",
                verbose_name="metadata",
            ),
        ),
    ]
