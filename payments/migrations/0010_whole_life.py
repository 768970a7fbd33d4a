import django.db.models.deletion
from django.db import migrations, models

import outbox.ids
from outbox.append_only import append_only
from outbox.online_ddl import AddFieldNotValid


class Migration(migrations.Migration):
    """Attempts, captures, parts that go back, and disputes."""

    dependencies = [
        ("payments", "0009_indexes"),
    ]

    operations = [
        migrations.AddField(
            model_name="payment",
            name="authorized_until",
            field=models.DateTimeField(null=True, verbose_name="authorized until"),
        ),
        AddFieldNotValid(
            model_name="payment",
            name="broken",
            field=models.PositiveSmallIntegerField(
                db_default=0, default=0, verbose_name="calls that broke at the gateway"
            ),
        ),
        migrations.AddField(
            model_name="payment",
            name="client_secret",
            field=models.CharField(blank=True, db_default="", default="", editable=False, max_length=255),
        ),
        migrations.AddField(
            model_name="payment",
            name="gateway_refund_id",
            field=models.CharField(
                blank=True, db_default="", default="", max_length=100, verbose_name="refund id at the gateway"
            ),
        ),
        migrations.AddField(
            model_name="payment",
            name="is_manual",
            field=models.BooleanField(db_default=False, default=False, verbose_name="captured on request"),
        ),
        migrations.AddField(
            model_name="payment",
            name="next_action",
            field=models.JSONField(editable=False, null=True, verbose_name="what the payer has to do"),
        ),
        migrations.AddField(
            model_name="payment",
            name="to_capture",
            field=models.BigIntegerField(help_text="in minor units", null=True, verbose_name="to capture"),
        ),
        migrations.AlterField(
            model_name="payment",
            name="status",
            field=models.CharField(
                choices=[
                    ("requested", "requested"),
                    ("pending", "pending"),
                    ("authorized", "authorized"),
                    ("capturing", "capturing"),
                    ("succeeded", "succeeded"),
                    ("failed", "failed"),
                    ("voiding", "voiding"),
                    ("voided", "voided"),
                    ("refunding", "refunding"),
                    ("refunded", "refunded"),
                    ("void_refused", "void refused"),
                    ("refund_refused", "refund refused"),
                ],
                max_length=20,
                verbose_name="status",
            ),
        ),
        migrations.CreateModel(
            name="Attempt",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("attempt_id", models.CharField(max_length=100, verbose_name="id at the gateway")),
                ("code", models.CharField(max_length=50, verbose_name="code")),
                ("message", models.CharField(blank=True, max_length=500, verbose_name="message")),
                ("at", models.DateTimeField(verbose_name="at")),
            ],
            options={
                "verbose_name": "declined attempt",
                "verbose_name_plural": "declined attempts",
            },
        ),
        migrations.CreateModel(
            name="Dispute",
            fields=[
                ("id", models.UUIDField(default=outbox.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("gateway", models.CharField(max_length=20, verbose_name="gateway")),
                ("dispute_id", models.CharField(max_length=100, verbose_name="dispute id")),
                ("amount", models.BigIntegerField(help_text="in minor units", verbose_name="amount")),
                ("currency", models.CharField(max_length=3, verbose_name="currency")),
                (
                    "status",
                    models.CharField(
                        choices=[("opened", "opened"), ("won", "won"), ("lost", "lost")],
                        max_length=10,
                        verbose_name="status",
                    ),
                ),
                ("reason", models.CharField(blank=True, max_length=100, verbose_name="reason")),
                ("respond_by", models.DateTimeField(null=True, verbose_name="respond by")),
                ("created_at", models.DateTimeField(verbose_name="created at")),
                ("updated_at", models.DateTimeField(verbose_name="updated at")),
            ],
            options={
                "verbose_name": "dispute",
                "verbose_name_plural": "disputes",
            },
        ),
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
                ("amount", models.BigIntegerField(help_text="in minor units", verbose_name="amount")),
                ("currency", models.CharField(max_length=3, verbose_name="currency")),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("requested", "requested"),
                            ("pending", "pending"),
                            ("succeeded", "succeeded"),
                            ("failed", "failed"),
                        ],
                        max_length=10,
                        verbose_name="status",
                    ),
                ),
                ("reason", models.CharField(blank=True, max_length=200, verbose_name="reason")),
                ("fail_reason", models.CharField(blank=True, max_length=50, verbose_name="fail reason")),
                ("gateway", models.CharField(blank=True, max_length=20, verbose_name="gateway")),
                (
                    "gateway_refund_id",
                    models.CharField(blank=True, max_length=100, verbose_name="refund id at the gateway"),
                ),
                ("is_foreign", models.BooleanField(default=False, verbose_name="made at the gateway")),
                ("unanswered", models.PositiveSmallIntegerField(default=0, verbose_name="unanswered in a row")),
                ("broken", models.PositiveSmallIntegerField(default=0, verbose_name="calls that broke at the gateway")),
                ("ask_at", models.DateTimeField(null=True, verbose_name="ask the gateway at")),
                ("created_at", models.DateTimeField(verbose_name="created at")),
                ("updated_at", models.DateTimeField(verbose_name="updated at")),
            ],
            options={
                "verbose_name": "refund",
                "verbose_name_plural": "refunds",
            },
        ),
        migrations.AddField(
            model_name="attempt",
            name="payment",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="attempts",
                to="payments.payment",
                verbose_name="payment",
            ),
        ),
        migrations.AddField(
            model_name="dispute",
            name="payment",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="disputes",
                to="payments.payment",
                verbose_name="payment",
            ),
        ),
        migrations.AddField(
            model_name="refund",
            name="payment",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="refunds",
                to="payments.payment",
                verbose_name="payment",
            ),
        ),
        migrations.AddConstraint(
            model_name="attempt",
            constraint=models.UniqueConstraint(fields=("payment", "attempt_id"), name="one_row_per_declined_attempt"),
        ),
        migrations.AddIndex(
            model_name="dispute",
            index=models.Index(condition=models.Q(("status", "opened")), fields=["respond_by"], name="dispute_open"),
        ),
        migrations.AddConstraint(
            model_name="dispute",
            constraint=models.CheckConstraint(condition=models.Q(("amount__gt", 0)), name="dispute_amount_positive"),
        ),
        migrations.AddConstraint(
            model_name="dispute",
            constraint=models.UniqueConstraint(fields=("dispute_id", "gateway"), name="one_dispute_per_gateway_id"),
        ),
        migrations.AddIndex(
            model_name="refund",
            index=models.Index(
                condition=models.Q(("ask_at__isnull", False)), fields=["ask_at"], name="refund_to_ask_about"
            ),
        ),
        migrations.AddIndex(
            model_name="refund",
            index=models.Index(
                condition=models.Q(("status", "succeeded"), _negated=True),
                fields=["status", "refund_id"],
                name="refund_not_succeeded",
            ),
        ),
        migrations.AddConstraint(
            model_name="refund",
            constraint=models.CheckConstraint(condition=models.Q(("amount__gt", 0)), name="refund_amount_positive"),
        ),
        migrations.AddConstraint(
            model_name="refund",
            constraint=models.UniqueConstraint(
                condition=models.Q(("gateway_refund_id", ""), _negated=True),
                fields=("gateway_refund_id", "gateway"),
                name="one_refund_per_gateway_id",
            ),
        ),
        append_only("payments_attempt"),
    ]
