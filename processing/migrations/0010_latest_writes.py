from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("processing", "0009_products_by_words"),
    ]

    operations = [
        migrations.CreateModel(
            name="LatestWrite",
            fields=[
                (
                    "principal",
                    models.CharField(max_length=100, primary_key=True, serialize=False, verbose_name="principal"),
                ),
                ("position", models.BigIntegerField(verbose_name="position")),
                ("at", models.DateTimeField(verbose_name="at")),
            ],
            options={
                "verbose_name": "latest write",
                "verbose_name_plural": "latest writes",
                "abstract": False,
            },
        ),
    ]
