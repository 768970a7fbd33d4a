import django.db.models.deletion
from django.db import migrations, models

from outbox.online_ddl import RemoveFieldIndexOnline, RemoveLikeIndexOnline


class Migration(migrations.Migration):
    """Nobody looks for the beginning of an id, and a constraint of lines begins with their hold."""

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
    ]
