import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """What products cost in other currencies than their own."""

    dependencies = [
        ("processing", "0006_performed_actions"),
    ]

    operations = [
        migrations.CreateModel(
            name="ProductPrice",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("currency", models.CharField(max_length=3, verbose_name="currency")),
                ("price", models.BigIntegerField(help_text="in minor units", verbose_name="price")),
                (
                    "product",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="other_prices",
                        to="processing.product",
                        verbose_name="product",
                    ),
                ),
            ],
            options={
                "verbose_name": "price",
                "verbose_name_plural": "prices",
                "constraints": [
                    models.UniqueConstraint(fields=("product", "currency"), name="one_price_per_product_and_currency"),
                    models.CheckConstraint(condition=models.Q(("price__gte", 0)), name="price_not_negative"),
                ],
            },
        ),
    ]
