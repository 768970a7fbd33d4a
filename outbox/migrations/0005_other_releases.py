from django.db import migrations, models

from outbox.online_ddl import AddFieldNotValid


class Migration(migrations.Migration):
    dependencies = [
        ("outbox", "0004_fast_lists"),
    ]

    operations = [
        AddFieldNotValid(
            model_name="outgoingmessage",
            name="compatible_from",
            field=models.PositiveSmallIntegerField(null=True, verbose_name="compatible from version"),
        ),
        migrations.AddField(
            model_name="outgoingmessage",
            name="waiting_since",
            field=models.DateTimeField(null=True, verbose_name="waiting since"),
        ),
    ]
