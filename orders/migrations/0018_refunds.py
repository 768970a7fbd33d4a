import django.db.models.deletion
from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models

import outbox.ids


class Migration(migrations.Migration):
    """Reserved money and its capture, invoices, and refunds of orders that stay."""

    dependencies = [
        ("orders", "0017_kinds_of_lines_validated"),
    ]

    operations = [
        migrations.CreateModel(
            name="Refund",
            fields=[
                (
                    "refund_id",
                    models.UUIDField(
                        default=outbox.ids.uuid7,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                        verbose_name="refund id",
                    ),
                ),
                (
                    "order",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="refunds",
                        to="orders.order",
                        verbose_name="order",
                    ),
                ),
                ("amount", models.BigIntegerField(help_text="in minor units", verbose_name="amount")),
                ("currency", models.CharField(max_length=3, verbose_name="currency")),
                (
                    "status",
                    models.CharField(
                        choices=[("pending", "pending"), ("succeeded", "succeeded"), ("failed", "failed")],
                        default="pending",
                        max_length=10,
                        verbose_name="status",
                    ),
                ),
                ("reason", models.CharField(blank=True, max_length=200, verbose_name="reason")),
                (
                    "lines",
                    models.JSONField(
                        default=list, help_text="positions and quantities, if it is of lines", verbose_name="lines"
                    ),
                ),
                ("restock", models.BooleanField(default=False, verbose_name="back into stock")),
                ("fail_code", models.CharField(blank=True, max_length=50, verbose_name="failed because")),
                ("actor", models.CharField(blank=True, max_length=150, verbose_name="asked for by")),
                ("created_at", models.DateTimeField(verbose_name="created at")),
                ("updated_at", models.DateTimeField(verbose_name="updated at")),
            ],
            options={
                "verbose_name": "refund",
                "verbose_name_plural": "refunds",
                "ordering": ["refund_id"],
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("amount__gt", 0)), name="order_refund_amount_positive")
                ],
            },
        ),
        migrations.AddField(
            model_name="order",
            name="capture",
            field=models.CharField(
                blank=True,
                choices=[("", "automatic"), ("manual", "on request"), ("after_processing", "after it is processed")],
                db_default="",
                default="",
                max_length=20,
                verbose_name="money is taken",
            ),
        ),
        migrations.AddField(
            model_name="order",
            name="captured",
            field=models.BigIntegerField(
                help_text="in minor units, if less than the total is taken", null=True, verbose_name="captured"
            ),
        ),
        migrations.AddField(
            model_name="order",
            name="refunded",
            field=models.BigIntegerField(db_default=0, default=0, help_text="in minor units", verbose_name="refunded"),
        ),
        migrations.AlterField(
            model_name="order",
            name="payment_method",
            field=models.CharField(
                choices=[("account", "account"), ("gateway", "gateway"), ("invoice", "invoice")],
                max_length=10,
                verbose_name="payment method",
            ),
        ),
        migrations.AlterField(
            model_name="order",
            name="status",
            field=models.CharField(
                choices=[
                    ("pending", "pending"),
                    ("reserved", "reserved"),
                    ("payment_pending", "payment pending"),
                    ("authorized", "authorized"),
                    ("capturing", "capturing"),
                    ("paid", "paid"),
                    ("voiding", "voiding"),
                    ("refunding", "refunding"),
                    ("releasing", "releasing"),
                    ("done", "done"),
                    ("canceled", "canceled"),
                    ("failed", "failed"),
                ],
                max_length=20,
                verbose_name="status",
            ),
        ),
        migrations.AlterField(
            model_name="orderevent",
            name="status",
            field=models.CharField(
                choices=[
                    ("pending", "pending"),
                    ("reserved", "reserved"),
                    ("payment_pending", "payment pending"),
                    ("authorized", "authorized"),
                    ("capturing", "capturing"),
                    ("paid", "paid"),
                    ("voiding", "voiding"),
                    ("refunding", "refunding"),
                    ("releasing", "releasing"),
                    ("done", "done"),
                    ("canceled", "canceled"),
                    ("failed", "failed"),
                ],
                max_length=20,
                verbose_name="status",
            ),
        ),
        AddConstraintNotValid(
            model_name="order",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    (
                        "status__in",
                        [
                            "pending",
                            "reserved",
                            "payment_pending",
                            "authorized",
                            "capturing",
                            "paid",
                            "voiding",
                            "refunding",
                            "releasing",
                            "done",
                            "canceled",
                            "failed",
                        ],
                    )
                ),
                name="order_has_a_known_status",
            ),
        ),
        AddConstraintNotValid(
            model_name="order",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("captured", None),
                    models.Q(("captured__gt", 0), ("captured__lte", models.F("total"))),
                    _connector="OR",
                ),
                name="order_captured_within_its_total",
            ),
        ),
        AddConstraintNotValid(
            model_name="order",
            constraint=models.CheckConstraint(
                condition=models.Q(("refunded__gte", 0), ("refunded__lte", models.F("total"))),
                name="order_refunded_within_its_total",
            ),
        ),
        migrations.RemoveConstraint(
            model_name="order",
            name="order_status_known",
        ),
    ]
