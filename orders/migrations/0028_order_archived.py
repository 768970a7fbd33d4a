from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orders", "0027_archive"),
    ]

    operations = [
        migrations.AddField(
            model_name="order",
            name="archived",
            field=models.DateField(
                editable=False, help_text="the month that has its history", null=True, verbose_name="archived"
            ),
        ),
    ]
