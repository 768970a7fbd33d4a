from django.db import migrations

from outbox.append_only import erasable

# A reason that a person has given may be emptied. Those of returns say what has been returned already.
CHANGE = """
    to_jsonb(NEW) - 'reason' = to_jsonb(OLD) - 'reason' AND NEW.reason = '' AND OLD.kind IN ('received', 'corrected')
"""


class Migration(migrations.Migration):
    """Reasons of stock movements can be erased where they name a person: see docs/privacy.md."""

    dependencies = [
        ("processing", "0011_unused_indexes"),
    ]

    operations = [erasable("processing_stockmovement", change=CHANGE)]
