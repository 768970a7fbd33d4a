from django.db import migrations, models


class Migration(migrations.Migration):
    """User ids belong to a client, and the forms about money are remembered with the money."""

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
        migrations.RemoveConstraint(
            model_name="account",
            name="one_account_per_user",
        ),
        migrations.AddIndex(
            model_name="idempotencykey",
            index=models.Index(fields=["principal"], name="payments_answers_of_client"),
        ),
        migrations.AddConstraint(
            model_name="account",
            constraint=models.UniqueConstraint(
                condition=models.Q(("kind", "customer")), fields=("user_id", "principal"), name="one_account_per_user"
            ),
        ),
    ]
