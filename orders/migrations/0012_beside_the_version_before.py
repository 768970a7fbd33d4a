from django.db import migrations, models

# Processes of the version before change the status of an order without the time since when it has it, from which ours
# reckon its deadline. So the database notes the time for them. To be dropped one version later.
STATUS_SINCE = """
CREATE OR REPLACE FUNCTION order_status_since() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        NEW.status_since := NEW.updated_at;
        RETURN NEW;
    END
$body$;
CREATE OR REPLACE TRIGGER order_status_since BEFORE UPDATE OF status ON orders_order FOR EACH ROW
    WHEN (NEW.status IS DISTINCT FROM OLD.status AND NEW.status_since = OLD.status_since)
    EXECUTE FUNCTION order_status_since();
"""
NO_MORE = """
DROP TRIGGER IF EXISTS order_status_since ON orders_order;
DROP FUNCTION IF EXISTS order_status_since();
"""


class Migration(migrations.Migration):
    """What the database does for processes of the version before, which do not know the new columns."""

    dependencies = [
        ("orders", "0011_webhook_secrets"),
    ]

    operations = [
        migrations.AlterField(
            model_name="webhookendpoint",
            name="hears_all",
            field=models.BooleanField(db_default=True, default=False, verbose_name="all clients"),
        ),
        migrations.RunSQL(STATUS_SINCE, NO_MORE),
    ]
