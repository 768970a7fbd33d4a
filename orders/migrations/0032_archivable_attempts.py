from django.db import migrations

from outbox.append_only import kept

OF_ORDER = "(SELECT order_id FROM orders_webhookdelivery WHERE id = OLD.delivery_id)"


class Migration(migrations.Migration):
    """The result of sending a webhook may go once it is in the archive, exactly as it is."""

    dependencies = [
        ("orders", "0031_archivable_deliveries"),
    ]

    operations = [
        kept(
            "orders_webhookattempt",
            until=f"orders_is_in_archive({OF_ORDER}, 'orders_webhookattempt', to_jsonb(OLD))",
        )
    ]
