from importlib import import_module

from django.db import migrations

# Note [A small sample]: ANALYZE reads thirty thousand rows and compares the values of each column, above all `data`,
# which no query looks into: half a second of a processor, each minute that the outbox is busy. A fifth of the rows
# says as much of ids and times, which are all that is looked for.
TABLE = "outbox_outgoingmessage"
UNSEEN = ("data", "traceparent", "last_error")
SAMPLED = (
    "id", "message_id", "type", "version", "compatible_from", "subject", "to", "correlation_id", "causation_id",
    "attempt", "created_at", "due_at", "first_due_at", "waiting_since", "publish_attempts", "refusals", "published_at",
)  # fmt: skip


def samples(*, of: int, of_unseen: int) -> str:
    targets = dict.fromkeys(SAMPLED, of) | dict.fromkeys(UNSEEN, of_unseen)
    columns = (f'ALTER COLUMN "{name}" SET STATISTICS {target}' for name, target in targets.items())
    return f"ALTER TABLE {TABLE} {', '.join(columns)}"


# The days of a table that is partitioned are made as the rest of it is.
MAKE = import_module("outbox.migrations.0009_by_day").MAKE.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
MADE = "        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', name, rest);\n"
ALIKE = """        SELECT string_agg(format('ALTER COLUMN %I SET STATISTICS %s', attname, attstattarget), ', ') INTO samples
        FROM pg_attribute
        WHERE attrelid = to_regclass(rest) AND attnum > 0 AND NOT attisdropped AND attstattarget >= 0;
        IF samples IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %I ', name) || samples;
        END IF;
"""
MAKE_ALIKE = MAKE.replace(MADE, MADE + ALIKE).replace("    options text;\n", "    options text;\n    samples text;\n")


class Migration(migrations.Migration):
    dependencies = [("outbox", "0009_by_day")]

    operations = [
        migrations.RunSQL(samples(of=20, of_unseen=0), samples(of=-1, of_unseen=-1)),
        migrations.RunSQL(MAKE_ALIKE, MAKE),
    ]
