from django.contrib.postgres.operations import ValidateConstraint
from django.db import migrations, models

from outbox.online_ddl import AddIndexOnline, AddUniqueOnline, RemoveIndexOnline, UpdateOnline


class Migration(migrations.Migration):
    """What the columns before need, while the tables are in use."""

    atomic = False
    dependencies = [
        ("orders", "0011_webhook_secrets"),
    ]

    operations = [
        AddUniqueOnline(
            model_name="order",
            constraint=models.UniqueConstraint(
                condition=models.Q(("reference", ""), _negated=True),
                fields=("reference", "principal"),
                name="one_order_per_reference_and_principal",
            ),
        ),
        AddIndexOnline(
            model_name="idempotencykey",
            index=models.Index(fields=["principal"], name="orders_answers_of_client"),
        ),
        AddIndexOnline(
            model_name="webhookendpoint",
            index=models.Index(
                condition=models.Q(("is_active", True)), fields=["principal"], name="webhook_endpoint_of_client"
            ),
        ),
        RemoveIndexOnline(
            model_name="webhookendpoint",
            name="webhook_endpoint_active",
        ),
        ValidateConstraint(
            model_name="webhookendpoint",
            name="endpoint_of_one_client_or_of_all",
        ),
        # The column was added with the time of its migration.
        UpdateOnline(
            "orders_order",
            key="order_id",
            to="status_since = updated_at",
            where="status NOT IN ('canceled', 'done', 'failed') AND status_since > updated_at",
        ),
        AddIndexOnline(
            model_name="order",
            index=models.Index(
                condition=models.Q(("status__in", ["canceled", "done", "failed"]), _negated=True),
                fields=["status", "status_since"],
                name="order_open_since",
            ),
        ),
        RemoveIndexOnline(
            model_name="order",
            name="order_open",
        ),
    ]
