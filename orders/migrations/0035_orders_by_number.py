from django.contrib.postgres.indexes import OpClass
from django.db import migrations, models
from django.db.models.functions import Upper
from django.db.models.lookups import Exact

from outbox.online_ddl import AddIndexOnline, RemoveIndexOnline


def beginning(model_name: str, field: str, name: str, *then: str) -> AddIndexOnline:
    return AddIndexOnline(
        model_name=model_name,
        index=models.Index(
            OpClass(Upper(field), name="text_pattern_ops"),
            *map(models.F, then),
            condition=models.Q(Exact(Upper(field), models.Value("")), _negated=True),
            name=name,
        ),
    )


class Migration(migrations.Migration):
    """Smaller indexes for the lists of orders: by number where they had the id, and ascending."""

    atomic = False
    dependencies = [
        ("orders", "0034_unused_indexes"),
    ]

    operations = [
        AddIndexOnline("order", models.Index(fields=["created_at", "number"], name="order_by_time")),
        AddIndexOnline(
            "order", models.Index(fields=["principal", "created_at", "number"], name="order_of_client_by_time")
        ),
        AddIndexOnline("order", models.Index(fields=["updated_at", "number"], name="order_by_change")),
        AddIndexOnline(
            "order", models.Index(fields=["principal", "updated_at", "number"], name="order_of_client_by_change")
        ),
        AddIndexOnline(
            "order",
            models.Index(
                fields=["status", "created_at", "number"],
                condition=models.Q(("status", "done"), _negated=True),
                name="order_other_than_done",
            ),
        ),
        beginning("order", "user_email", "order_with_email", "created_at", "number"),
        beginning("order", "user_id", "order_with_user", "created_at", "number"),
        beginning("order", "customer_id", "order_with_customer", "created_at", "number"),
        beginning("orderline", "sku", "line_with_sku", "id"),
        RemoveIndexOnline("order", "order_changed"),
        RemoveIndexOnline("order", "order_of_principal_changed"),
        RemoveIndexOnline("order", "order_by_email"),
        RemoveIndexOnline("order", "order_by_user"),
        RemoveIndexOnline("order", "order_by_customer"),
        RemoveIndexOnline("orderline", "line_by_sku"),
    ]
