from django.db import migrations

from outbox.append_only import erasable

# A reason and corrections that may name somebody may be emptied.
CHANGE = """
    to_jsonb(NEW) - 'detail' = to_jsonb(OLD) - 'detail'
    AND NEW.detail - ARRAY['why', 'changes'] = OLD.detail - ARRAY['why', 'changes']
    AND (NEW.detail -> 'why' IS NOT DISTINCT FROM OLD.detail -> 'why' OR NEW.detail -> 'why' = '""')
    AND (NEW.detail -> 'changes' IS NOT DISTINCT FROM OLD.detail -> 'changes' OR NEW.detail -> 'changes' = '[]')
"""


class Migration(migrations.Migration):
    """What was done with dead letters can be read without the name of a person."""

    dependencies = [
        ("outbox", "0007_indexes"),
    ]

    operations = [erasable("outbox_deadletteraction", change=CHANGE)]
