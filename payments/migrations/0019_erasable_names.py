from django.db import migrations

from outbox.append_only import erasable

# Texts that may name somebody may be emptied. A correction never is without a reason.
ENTRY = "to_jsonb(NEW) - 'reason' = to_jsonb(OLD) - 'reason' AND NEW.reason = 'erased'"
ATTEMPT = "to_jsonb(NEW) - 'message' = to_jsonb(OLD) - 'message' AND NEW.message = ''"


class Migration(migrations.Migration):
    """Reasons in the books can be erased where they name a person: see docs/privacy.md."""

    dependencies = [
        ("payments", "0018_payments_by_time"),
    ]

    operations = [erasable("payments_entry", change=ENTRY), erasable("payments_attempt", change=ATTEMPT)]
