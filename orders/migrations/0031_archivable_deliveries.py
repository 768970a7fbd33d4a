from django.db import migrations

from outbox.append_only import kept


class Migration(migrations.Migration):
    """A webhook may go once it is in the archive, exactly as it is."""

    dependencies = [
        ("orders", "0030_archivable_events"),
    ]

    operations = [
        kept(
            "orders_webhookdelivery",
            until="orders_is_in_archive(OLD.order_id, 'orders_webhookdelivery', to_jsonb(OLD))",
        )
    ]
