from importlib import import_module

from django.db import migrations

from outbox.append_only import erasable

CHANGE = import_module("orders.migrations.0024_erasable_names").CHANGE


class Migration(migrations.Migration):
    """An event may go once it is in the archive, exactly as it is."""

    dependencies = [
        ("orders", "0029_orders_to_archive"),
    ]

    operations = [
        erasable(
            "orders_orderevent",
            change=CHANGE,
            gone="orders_is_in_archive(OLD.order_id, 'orders_orderevent', to_jsonb(OLD))",
        )
    ]
