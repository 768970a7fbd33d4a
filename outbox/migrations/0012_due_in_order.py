from django.db import migrations, models

from outbox.online_ddl import AddIndexOnline, RemoveIndexOnline


class Migration(migrations.Migration):
    """What is due is in the order of an index: see due_rows.py. The release before finds it by the new one as well."""

    atomic = False
    dependencies = [
        ("outbox", "0011_label_of_action"),
    ]

    operations = [
        AddIndexOnline(
            model_name="outgoingmessage",
            index=models.Index(
                condition=models.Q(("published_at__isnull", True)),
                fields=["due_at", "id"],
                name="outgoing_due",
            ),
        ),
        RemoveIndexOnline(model_name="outgoingmessage", name="outgoing_unpublished"),
    ]
