from importlib import import_module

from django.db import migrations, models

CHANGE = import_module("orders.migrations.0024_erasable_names").CHANGE

# By month, so that a month can be kept as a file of its own. It is that of the order's placing, which never changes.
TABLE = """
CREATE TABLE orders_archive (
    order_id varchar(64) NOT NULL,
    month date NOT NULL,
    archived_at timestamptz NOT NULL,
    document jsonb NOT NULL,
    PRIMARY KEY (order_id, month)
) PARTITION BY RANGE (month);
DO $$
    BEGIN
        ALTER TABLE orders_archive ALTER COLUMN document SET COMPRESSION lz4;
    EXCEPTION WHEN feature_not_supported THEN
        NULL;  -- a server that was built without it compresses by its own means
    END
$$;
"""

# Processes may not create tables: this creates one for them, empty, and nothing else. It is made apart and attached
# then, so that nobody who reads the archive waits.
ADD_MONTH = """
CREATE FUNCTION orders_archive_month(first date) RETURNS boolean LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    name text := 'orders_archive_' || to_char(first, 'YYYY_MM');
BEGIN
    IF first <> date_trunc('month', first) OR first > current_date OR first < '2000-01-01' THEN
        RAISE EXCEPTION '% is no month of the past', first;
    END IF;
    IF to_regclass(name) IS NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('orders_archive_month', 0));
        IF to_regclass(name) IS NULL THEN
            EXECUTE format('CREATE TABLE %I (LIKE orders_archive INCLUDING ALL)', name);
            EXECUTE format(
                'ALTER TABLE orders_archive ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                name, first, (first + interval '1 month')::date
            );
        END IF;
    END IF;
    RETURN EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(name));
END $$;
REVOKE EXECUTE ON FUNCTION orders_archive_month(date) FROM PUBLIC;
"""

# Whether this row of an order is in its document, exactly.
IN_ARCHIVE = """
CREATE FUNCTION orders_is_in_archive(of_order text, kind text, stored jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    kept date;
BEGIN
    SELECT archived INTO kept FROM orders_order WHERE order_id = of_order;
    RETURN EXISTS (
        SELECT FROM orders_archive
        WHERE order_id = of_order AND month = kept AND document -> kind @> jsonb_build_array(stored)
    );
END $$;
"""

# A document goes once all of its rows are in their tables again. Until then names may be erased from it, as from them.
IS_MISSING = "\n OR ".join(
    f"""
    EXISTS (
        SELECT FROM jsonb_array_elements(OLD.document -> '{table}') AS kept
        WHERE NOT EXISTS (SELECT FROM {table} AS back WHERE back.id = (kept ->> 'id')::{kind})
    )
    """  # noqa: S608 - of constants
    for table, kind in (
        ("orders_orderevent", "uuid"),
        ("orders_webhookdelivery", "uuid"),
        ("orders_webhookattempt", "bigint"),
    )
)
HAS_CHANGED = "\n OR ".join(
    f"""
    EXISTS (
        SELECT FROM jsonb_array_elements(OLD.document -> '{table}') WITH ORDINALITY AS was (kept, place)
        FULL JOIN jsonb_array_elements(NEW.document -> '{table}') WITH ORDINALITY AS becomes (kept, place) USING (place)
        WHERE was.kept - ARRAY[{erasable}] IS DISTINCT FROM becomes.kept - ARRAY[{erasable}]
    )
    """  # noqa: S608 - of constants
    for table, erasable in (
        ("orders_orderevent", "'data'"),
        ("orders_webhookdelivery", "'body'"),
        ("orders_webhookattempt", "'response', 'error'"),
    )
)
EVENT_CHANGED = f"""
    EXISTS (
        SELECT FROM jsonb_populate_recordset(NULL::orders_orderevent, OLD.document -> 'orders_orderevent') AS was
        JOIN jsonb_populate_recordset(NULL::orders_orderevent, NEW.document -> 'orders_orderevent') AS becomes USING (id)
        WHERE becomes.data IS DISTINCT FROM was.data
            AND ({CHANGE.replace("NEW", "becomes").replace("OLD", "was")}) IS NOT TRUE
    )
"""  # noqa: S608 - of constants
TABLES = "'orders_orderevent', 'orders_webhookdelivery', 'orders_webhookattempt'"
GUARD = f"""
CREATE FUNCTION orders_archive_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF NOT ({IS_MISSING}) THEN RETURN OLD; END IF;
    ELSIF to_jsonb(NEW) - 'document' = to_jsonb(OLD) - 'document'
        AND NEW.document - ARRAY[{TABLES}] = OLD.document - ARRAY[{TABLES}]
        AND NOT ({HAS_CHANGED}) AND NOT ({EVENT_CHANGED})
    THEN RETURN NEW;
    END IF;
    RAISE EXCEPTION 'orders_archive is append-only' USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER orders_archive_is_append_only BEFORE UPDATE OR DELETE ON orders_archive
    FOR EACH ROW EXECUTE FUNCTION orders_archive_is_append_only();
"""


class Migration(migrations.Migration):
    """What happened to orders that finished long ago goes here: see docs/operations.md."""

    dependencies = [
        ("orders", "0026_statistics"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(TABLE, "DROP TABLE orders_archive")],
            state_operations=[
                migrations.CreateModel(
                    name="ArchivedHistory",
                    fields=[
                        (
                            "order_id",
                            models.CharField(max_length=64, primary_key=True, serialize=False, verbose_name="order id"),
                        ),
                        (
                            "month",
                            models.DateField(help_text="in which the order was placed", verbose_name="month"),
                        ),
                        ("archived_at", models.DateTimeField(verbose_name="archived at")),
                        ("document", models.JSONField(verbose_name="document")),
                    ],
                    options={
                        "verbose_name": "archived history",
                        "verbose_name_plural": "archived histories",
                        "db_table": "orders_archive",
                        "default_permissions": (),
                    },
                ),
            ],
        ),
        migrations.RunSQL(ADD_MONTH, "DROP FUNCTION orders_archive_month"),
        migrations.RunSQL(IN_ARCHIVE, "DROP FUNCTION orders_is_in_archive"),
        migrations.RunSQL(
            GUARD,
            "DROP TRIGGER orders_archive_is_append_only ON orders_archive; DROP FUNCTION orders_archive_is_append_only",
        ),
    ]
