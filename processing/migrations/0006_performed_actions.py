from django.db import migrations, models


class Migration(migrations.Migration):
    """The forms about stock are remembered with the stock."""

    dependencies = [
        ("processing", "0005_hold_asked_at"),
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
    ]
