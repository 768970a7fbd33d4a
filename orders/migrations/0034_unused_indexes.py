import django.db.models.deletion
from django.db import migrations, models

from outbox.online_ddl import RemoveFieldIndexOnline, RemoveLikeIndexOnline


class Migration(migrations.Migration):
    """Each order wrote to them, and a constraint of the same table begins with the same column."""

    atomic = False
    dependencies = [
        ("orders", "0033_latest_writes"),
    ]

    operations = [
        RemoveLikeIndexOnline("order", "order_id"),
        RemoveFieldIndexOnline(
            model_name="orderline",
            name="order",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="lines",
                to="orders.order",
                verbose_name="order",
            ),
        ),
        RemoveFieldIndexOnline(
            model_name="orderevent",
            name="order",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="events",
                to="orders.order",
                verbose_name="order",
            ),
        ),
        RemoveLikeIndexOnline("idempotencykey", "order_id"),
        RemoveLikeIndexOnline("webhookdelivery", "order_id"),
    ]
