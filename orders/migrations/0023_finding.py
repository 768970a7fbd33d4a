from django.contrib.postgres.indexes import OpClass
from django.db import migrations, models
from django.db.models.functions import Upper
from django.db.models.lookups import Exact

from outbox.online_ddl import AddIndexOnline, AddUniqueOnline, UpdateOnline


def by_beginning(name: str, field: str) -> AddIndexOnline:
    return AddIndexOnline(
        model_name="order",
        index=models.Index(
            OpClass(Upper(field), name="text_pattern_ops"),
            models.F("created_at").desc(),
            models.F("order_id").desc(),
            condition=models.Q(Exact(Upper(field), models.Value("")), _negated=True),
            name=name,
        ),
    )


class Migration(migrations.Migration):
    """Numbers for the orders before, and search that takes upper and lower case for the same."""

    atomic = False
    dependencies = [
        ("orders", "0022_numbers"),
    ]

    operations = [
        UpdateOnline(
            "orders_order", key="order_id", to="number = nextval('orders_order_number')", where="number IS NULL"
        ),
        AddUniqueOnline(
            model_name="order",
            constraint=models.UniqueConstraint(fields=("number",), name="one_order_per_number"),
        ),
        by_beginning("order_by_email", "user_email"),
        by_beginning("order_by_user", "user_id"),
        by_beginning("order_by_customer", "customer_id"),
    ]
