from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("outbox", "0010_small_samples")]

    operations = [
        migrations.AlterField("deadletteraction", "verb", models.CharField(max_length=20, verbose_name="action")),
    ]
