from django.contrib.postgres.operations import ValidateConstraint
from django.db import migrations, models

from outbox.online_ddl import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("outbox", "0006_starts_and_first_due"),
    ]

    operations = [
        AddIndexOnline(
            model_name="outgoingmessage",
            index=models.Index(
                condition=models.Q(("published_at__isnull", True), ("waiting_since__isnull", False)),
                fields=["waiting_since"],
                name="outgoing_waiting",
            ),
        ),
        ValidateConstraint(
            model_name="outgoingmessage",
            name="outbox_outgoingmessage_compatible_from_check",
        ),
    ]
