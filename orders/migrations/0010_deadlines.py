import django.db.models.functions.datetime
import django.utils.timezone
from django.db import migrations, models

# Processes of the version before change the status without the time from when it counts: the database adds it for them.
# The trigger is dropped one version later.
SINCE = """
CREATE FUNCTION orders_order_status_since() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.status_since := NEW.updated_at;
        RETURN NEW;
    END
$$;
CREATE TRIGGER orders_order_status_since BEFORE UPDATE OF status ON orders_order FOR EACH ROW
    WHEN (NEW.status <> OLD.status AND NEW.status_since = OLD.status_since AND NEW.updated_at > OLD.updated_at)
    EXECUTE FUNCTION orders_order_status_since();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("orders", "0009_names_per_client"),
    ]

    operations = [
        migrations.AddField(
            model_name="order",
            name="blocked",
            field=models.CharField(blank=True, db_default="", default="", max_length=50, verbose_name="blocked by"),
        ),
        migrations.AddField(
            model_name="order",
            name="status_since",
            field=models.DateTimeField(
                db_default=django.db.models.functions.datetime.Now(),
                default=django.utils.timezone.now,
                verbose_name="in this status since",
            ),
        ),
        migrations.AddField(
            model_name="order",
            name="timer_at",
            field=models.DateTimeField(null=True, verbose_name="next timer at"),
        ),
        migrations.AddField(
            model_name="order",
            name="timer_id",
            field=models.UUIDField(null=True, verbose_name="next timer"),
        ),
        migrations.RunSQL(
            SINCE,
            "DROP TRIGGER orders_order_status_since ON orders_order; DROP FUNCTION orders_order_status_since()",
        ),
    ]
