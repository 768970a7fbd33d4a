from django.contrib.postgres.operations import ValidateConstraint
from django.db import migrations, models

from outbox.online_ddl import AddIndexOnline, AddUniqueOnline, RemoveUniqueOnline


class Migration(migrations.Migration):
    """User ids belong to a client."""

    atomic = False
    dependencies = [
        ("payments", "0008_deadlines"),
    ]

    operations = [
        AddIndexOnline(
            model_name="idempotencykey",
            index=models.Index(fields=["principal"], name="payments_answers_of_client"),
        ),
        AddUniqueOnline(
            model_name="account",
            constraint=models.UniqueConstraint(
                condition=models.Q(("kind", "customer")),
                fields=("user_id", "principal"),
                name="one_account_per_user_and_principal",
            ),
        ),
        RemoveUniqueOnline(
            model_name="account",
            name="one_account_per_user",
        ),
        ValidateConstraint(
            model_name="payment",
            name="payments_payment_refusals_check",
        ),
    ]
