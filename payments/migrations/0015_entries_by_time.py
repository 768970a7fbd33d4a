from django.contrib.postgres.indexes import BrinIndex
from django.db import migrations

from outbox.online_ddl import AddIndexOnline


class Migration(migrations.Migration):
    """Entries of a period are found without an index that every entry would have to be written into."""

    atomic = False
    dependencies = [
        ("payments", "0014_books"),
    ]

    operations = [
        AddIndexOnline(model_name="entry", index=BrinIndex(fields=["at"], name="entry_by_time")),
    ]
