from django.contrib.postgres.operations import ValidateConstraint
from django.db import migrations, models

from outbox.online_ddl import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("orders", "0020_endpoints_of_clients"),
    ]

    operations = [
        AddIndexOnline(
            model_name="webhookendpoint",
            index=models.Index(
                condition=models.Q(("deleted_at", None)), fields=["principal", "id"], name="webhook_endpoint_listed"
            ),
        ),
        AddIndexOnline(
            model_name="webhookdelivery",
            index=models.Index(
                condition=models.Q(("status__in", ["pending", "failed"])),
                fields=["endpoint", "status", "id"],
                name="webhook_delivery_of_one_open",
            ),
        ),
        ValidateConstraint(model_name="webhookendpoint", name="deleted_endpoint_is_off"),
    ]
