from django.db import migrations, models


class Migration(migrations.Migration):
    """The order ids that clients give belong to a client."""

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
    ]
