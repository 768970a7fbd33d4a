from django.db import migrations, models

from outbox.online_ddl import AddIndexOnline


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("payments", "0017_never_more_than_captured"),
    ]

    operations = [
        AddIndexOnline(
            model_name="payment",
            index=models.Index(fields=["-created_at", "-order_id"], name="payment_newest"),
        ),
    ]
