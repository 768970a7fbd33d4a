from django.db import migrations, models


class Migration(migrations.Migration):
    """The forms about money are remembered with the money, and a webhook with the installation that it is for."""

    dependencies = [
        ("payments", "0006_answers_to_the_letter"),
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
        migrations.AddField(
            model_name="webhookreceipt",
            name="installation",
            field=models.CharField(blank=True, db_default="", default="", max_length=20, verbose_name="installation"),
        ),
    ]
