from django.db import migrations

from outbox.online_ddl import RemoveLikeIndexOnline


class Migration(migrations.Migration):
    """Nobody looks for the beginning of an id."""

    atomic = False
    dependencies = [
        ("payments", "0020_latest_writes"),
    ]

    operations = [
        RemoveLikeIndexOnline("payment", "order_id"),
        RemoveLikeIndexOnline("entry", "order_id"),
        RemoveLikeIndexOnline("webhookreceipt", "order_id"),
        RemoveLikeIndexOnline("webhookreceipt", "payment_id"),
    ]
