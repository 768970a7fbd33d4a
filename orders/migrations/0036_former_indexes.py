from django.db import migrations


class Migration(migrations.Migration):
    """Only the release before uses them. `migrate_all` drops them when it does not come back."""

    dependencies = [
        ("orders", "0035_orders_by_number"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RemoveIndex("order", name)
                for name in (
                    "order_newest",
                    "order_of_principal",
                    "order_of_status",
                    "order_of_customer",
                    "order_of_user",
                    "order_of_email",
                )
            ]
        ),
    ]
