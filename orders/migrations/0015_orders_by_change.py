from django.db import migrations, models

from outbox.online_ddl import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("orders", "0014_metadata"),
    ]

    operations = [
        AddIndexOnline(
            model_name="order",
            index=models.Index(fields=["updated_at", "order_id"], name="order_changed"),
        ),
        AddIndexOnline(
            model_name="order",
            index=models.Index(fields=["principal", "updated_at", "order_id"], name="order_of_principal_changed"),
        ),
    ]
