from django.contrib.postgres.operations import ValidateConstraint
from django.db import migrations, models

from outbox.online_ddl import AddUniqueOnline, RemoveUniqueOnline


class Migration(migrations.Migration):
    """An order has several refunds."""

    atomic = False
    dependencies = [
        ("payments", "0012_what_webhooks_are_about"),
    ]

    operations = [
        AddUniqueOnline(
            model_name="entry",
            constraint=models.UniqueConstraint(
                condition=models.Q(("gateway_id", ""), _negated=True),
                fields=("gateway_id", "kind"),
                name="one_entry_per_gateway_id_and_kind",
            ),
        ),
        RemoveUniqueOnline(
            model_name="entry",
            name="one_refund_per_order",
        ),
        ValidateConstraint(model_name="entry", name="money_of_an_order_names_it"),
        ValidateConstraint(model_name="payment", name="payments_payment_broken_check"),
    ]
