from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models


class Migration(migrations.Migration):
    """Entries name what they record: the refund, and the id at the gateway."""

    dependencies = [
        ("payments", "0010_whole_life"),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name="entry",
            name="order_money_names_its_order",
        ),
        migrations.AddField(
            model_name="entry",
            name="gateway_id",
            field=models.CharField(
                blank=True, db_default="", default="", max_length=100, verbose_name="id at the gateway"
            ),
        ),
        migrations.AddField(
            model_name="entry",
            name="refund_id",
            field=models.UUIDField(null=True, verbose_name="refund"),
        ),
        migrations.AlterField(
            model_name="entry",
            name="kind",
            field=models.CharField(
                choices=[
                    ("deposit", "deposit"),
                    ("charge", "charge"),
                    ("refund", "refund"),
                    ("correction", "correction"),
                    ("refund_failed", "refund failed"),
                    ("dispute", "dispute"),
                    ("dispute_won", "dispute won"),
                    ("dispute_lost", "dispute lost"),
                    ("fee", "fee"),
                ],
                max_length=20,
                verbose_name="kind",
            ),
        ),
        AddConstraintNotValid(
            model_name="entry",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("kind__in", ["deposit", "correction", "fee"]),
                    models.Q(("order_id", ""), _negated=True),
                    _connector="OR",
                ),
                name="money_of_an_order_names_it",
            ),
        ),
    ]
