from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("payments", "0005_fast_lists"),
    ]

    operations = [
        migrations.AlterField(
            model_name="idempotencykey",
            name="answer",
            field=models.TextField(blank=True, default="", verbose_name="answer"),
            preserve_default=False,
        ),
    ]
