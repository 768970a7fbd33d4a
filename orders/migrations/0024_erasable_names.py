from django.db import migrations

from outbox.append_only import erasable

NAMES = "'customer_id', 'user_id', 'user_email'"
EMPTIED = "'description', 'note'"
PSEUDONYM = r"'^erased-[0-9a-f]{16}(@erased\.invalid)?$'"

# Names may be replaced by pseudonyms, once, and texts that may name somebody may be emptied.
CHANGE = rf"""
    to_jsonb(NEW) - 'data' = to_jsonb(OLD) - 'data'
    AND (NEW.data - ARRAY[{NAMES}, {EMPTIED}, 'metadata']) #- '{{refund,reason}}'
        = (OLD.data - ARRAY[{NAMES}, {EMPTIED}, 'metadata']) #- '{{refund,reason}}'
    AND NOT EXISTS (
        SELECT FROM unnest(ARRAY[{NAMES}]) AS name
        WHERE NEW.data -> name IS DISTINCT FROM OLD.data -> name
            AND ((OLD.data ->> name) !~ {PSEUDONYM} AND (NEW.data ->> name) ~ {PSEUDONYM}) IS NOT TRUE
    )
    AND NOT EXISTS (
        SELECT FROM unnest(ARRAY[{EMPTIED}]) AS name
        WHERE NEW.data -> name IS DISTINCT FROM OLD.data -> name AND NEW.data -> name IS DISTINCT FROM '""'
    )
    AND (NEW.data -> 'metadata' IS NOT DISTINCT FROM OLD.data -> 'metadata' OR NEW.data -> 'metadata' = '{{}}')
    AND (
        NEW.data #> '{{refund,reason}}' IS NOT DISTINCT FROM OLD.data #> '{{refund,reason}}'
        OR NEW.data #> '{{refund,reason}}' = '""'
    )
"""  # noqa: S608 - of constants


class Migration(migrations.Migration):
    """The history of an order can be read without the name of the person: see docs/privacy.md."""

    dependencies = [
        ("orders", "0023_finding"),
    ]

    operations = [erasable("orders_orderevent", change=CHANGE)]
