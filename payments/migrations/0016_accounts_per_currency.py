from django.db import migrations, models

from outbox.online_ddl import AddUniqueOnline, RemoveUniqueOnline


class Migration(migrations.Migration):
    """A user may have an account in each currency."""

    atomic = False

    dependencies = [
        ("payments", "0015_entries_by_time"),
    ]

    operations = [
        AddUniqueOnline(
            model_name="account",
            constraint=models.UniqueConstraint(
                condition=models.Q(("kind", "customer")),
                fields=("user_id", "principal", "currency"),
                name="one_account_per_user_principal_and_currency",
            ),
        ),
        RemoveUniqueOnline(
            model_name="account",
            name="one_account_per_user_and_principal",
        ),
    ]
