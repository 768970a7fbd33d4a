from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("outbox", "0004_fast_lists"),
    ]

    operations = [
        migrations.AddField(
            model_name="outgoingmessage",
            name="compatible_from",
            field=models.PositiveSmallIntegerField(null=True, verbose_name="compatible from version"),
        ),
        migrations.AddField(
            model_name="outgoingmessage",
            name="waiting_since",
            field=models.DateTimeField(null=True, verbose_name="waiting since"),
        ),
        migrations.AddIndex(
            model_name="outgoingmessage",
            index=models.Index(
                condition=models.Q(("published_at__isnull", True), ("waiting_since__isnull", False)),
                fields=["waiting_since"],
                name="outgoing_waiting",
            ),
        ),
    ]
