from django.db import migrations, models

from outbox.online_ddl import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("orders", "0028_order_archived"),
    ]

    operations = [
        AddIndexOnline(
            model_name="order",
            index=models.Index(
                condition=models.Q(("archived", None), ("status__in", ["canceled", "done", "failed"])),
                fields=["updated_at"],
                name="order_to_archive",
            ),
        ),
    ]
