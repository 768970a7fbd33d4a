from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("processing", "0007_prices"),
    ]

    operations = [
        migrations.AlterField(
            model_name="stockmovement",
            name="kind",
            field=models.CharField(
                choices=[
                    ("received", "received"),
                    ("corrected", "corrected"),
                    ("held", "held"),
                    ("released", "released"),
                    ("sold", "sold"),
                    ("returned", "returned"),
                ],
                max_length=10,
                verbose_name="kind",
            ),
        ),
    ]
