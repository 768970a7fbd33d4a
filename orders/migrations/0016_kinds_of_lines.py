from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models


class Migration(migrations.Migration):
    """Lines for taxes, discounts and shipping."""

    dependencies = [
        ("orders", "0015_orders_by_change"),
    ]

    operations = [
        migrations.AddField(
            model_name="orderline",
            name="kind",
            field=models.CharField(
                choices=[("item", "item"), ("tax", "tax"), ("discount", "discount"), ("shipping", "shipping")],
                db_default="item",
                default="item",
                max_length=10,
                verbose_name="kind",
            ),
        ),
        migrations.AddField(
            model_name="orderline",
            name="of_position",
            field=models.SmallIntegerField(null=True, verbose_name="belongs to position"),
        ),
        migrations.AlterField(
            model_name="orderline",
            name="unit_price",
            field=models.BigIntegerField(
                help_text="in minor units; negative for a discount, and for nothing else", verbose_name="unit price"
            ),
        ),
        AddConstraintNotValid(
            model_name="orderline",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("unit_price__gte", 0), models.Q(("kind", "discount"), _negated=True)),
                    models.Q(("kind", "discount"), ("unit_price__lt", 0)),
                    _connector="OR",
                ),
                name="line_price_has_the_sign_of_its_kind",
            ),
        ),
        AddConstraintNotValid(
            model_name="orderline",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("kind", "item"), ("of_position", None)),
                    models.Q(("kind__in", ["tax", "discount", "shipping"]), ("product_id", None), ("quantity", 1)),
                    _connector="OR",
                ),
                name="line_is_goods_or_belongs_to_some",
            ),
        ),
        migrations.RemoveConstraint(
            model_name="orderline",
            name="line_price_not_negative",
        ),
    ]
