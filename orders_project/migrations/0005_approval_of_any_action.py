from django.db import migrations, models


class Migration(migrations.Migration):
    """Any action can wait for approval."""

    dependencies = [
        ("orders_project", "0004_operator_permissions"),
    ]

    operations = [
        migrations.AddField(
            model_name="approval",
            name="call",
            field=models.JSONField(db_default={}, default=dict, verbose_name="values"),
        ),
    ]
