import django.db.models.deletion
from django.db import migrations, models

from outbox.online_ddl import AddIndexOnline, RemoveFieldIndexOnline, RemoveLikeIndexOnline


class Migration(migrations.Migration):
    """
    Each order wrote to them. Lines are looked for by their hold, which their constraint begins with, and those of a
    product by its open holds; movements of a hold only where stock has come back.
    """

    atomic = False
    dependencies = [
        ("processing", "0010_latest_writes"),
    ]

    operations = [
        RemoveLikeIndexOnline("hold", "order_id"),
        RemoveLikeIndexOnline("processing", "order_id"),
        RemoveFieldIndexOnline(
            model_name="holdline",
            name="hold",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="lines",
                to="processing.hold",
                verbose_name="hold",
            ),
        ),
        RemoveFieldIndexOnline(
            model_name="holdline",
            name="product",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="hold_lines",
                to="processing.product",
                verbose_name="product",
            ),
        ),
        AddIndexOnline(
            model_name="stockmovement",
            index=models.Index(condition=models.Q(("kind", "returned")), fields=["hold"], name="movement_back_of_hold"),
        ),
        RemoveFieldIndexOnline(
            model_name="stockmovement",
            name="hold",
            field=models.ForeignKey(
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="movements",
                to="processing.hold",
                verbose_name="hold",
            ),
        ),
    ]
