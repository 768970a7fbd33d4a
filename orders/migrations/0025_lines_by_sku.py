from django.contrib.postgres.indexes import OpClass
from django.db import migrations, models
from django.db.models.functions import Upper
from django.db.models.lookups import Exact

from outbox.online_ddl import AddIndexOnline


class Migration(migrations.Migration):
    """Orders can be found by the SKUs of their lines."""

    atomic = False
    dependencies = [
        ("orders", "0024_erasable_names"),
    ]

    operations = [
        AddIndexOnline(
            model_name="orderline",
            index=models.Index(
                OpClass(Upper("sku"), name="text_pattern_ops"),
                models.F("id").desc(),
                condition=models.Q(Exact(Upper("sku"), models.Value("")), _negated=True),
                name="line_by_sku",
            ),
        ),
    ]
