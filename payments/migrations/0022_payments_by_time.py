from django.db import migrations, models

from outbox.online_ddl import AddIndexOnline, RemoveIndexOnline


class Migration(migrations.Migration):
    """An index that grows at its end has full pages, one that grows at its beginning half-full ones."""

    atomic = False
    dependencies = [
        ("payments", "0021_unused_indexes"),
    ]

    operations = [
        AddIndexOnline("payment", models.Index(fields=["created_at", "order_id"], name="payment_by_time")),
        RemoveIndexOnline("payment", "payment_newest"),
    ]
