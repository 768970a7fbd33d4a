from django.db import migrations


def statistics(name: str, expression: str, table: str) -> migrations.RunSQL:
    return migrations.RunSQL(
        sql=f"CREATE STATISTICS IF NOT EXISTS {name} ON ({expression}) FROM {table}",
        reverse_sql=f"DROP STATISTICS IF EXISTS {name}",
    )


class Migration(migrations.Migration):
    """Tell the planner how common a name is: it takes nothing from indexes with a condition. ANALYZE fills them."""

    dependencies = [
        ("orders", "0025_lines_by_sku"),
    ]

    operations = [
        statistics("order_emails", "upper(user_email)", "orders_order"),
        statistics("order_users", "upper(user_id)", "orders_order"),
        statistics("order_customers", "upper(customer_id)", "orders_order"),
        statistics("line_skus", "upper(sku)", "orders_orderline"),
    ]
