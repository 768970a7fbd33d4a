from django.contrib.postgres.operations import ValidateConstraint
from django.db import migrations


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("orders", "0016_kinds_of_lines"),
    ]

    operations = [
        ValidateConstraint(model_name="orderline", name="line_price_has_the_sign_of_its_kind"),
        ValidateConstraint(model_name="orderline", name="line_is_goods_or_belongs_to_some"),
    ]
