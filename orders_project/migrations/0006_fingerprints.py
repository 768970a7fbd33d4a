from django.db import migrations, models


class Migration(migrations.Migration):
    """A form of the back office that comes again is compared with the first."""

    dependencies = [
        ("orders_project", "0005_approval_of_any_action"),
    ]

    operations = [
        migrations.AddField(
            model_name="performedaction",
            name="fingerprint",
            field=models.CharField(
                blank=True, db_default="", default="", max_length=64, verbose_name="request fingerprint"
            ),
        ),
    ]
