from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("orders", "0013_metadata"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="order",
            index=models.Index(fields=["updated_at", "order_id"], name="order_changed"),
        ),
        AddIndexConcurrently(
            model_name="order",
            index=models.Index(fields=["principal", "updated_at", "order_id"], name="order_of_principal_changed"),
        ),
    ]
