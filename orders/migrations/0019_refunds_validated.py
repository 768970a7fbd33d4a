from django.contrib.postgres.operations import ValidateConstraint
from django.db import migrations


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("orders", "0018_refunds"),
    ]

    operations = [
        ValidateConstraint(model_name="order", name="order_has_a_known_status"),
        ValidateConstraint(model_name="order", name="order_captured_within_its_total"),
        ValidateConstraint(model_name="order", name="order_refunded_within_its_total"),
    ]
