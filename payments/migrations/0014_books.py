from django.db import migrations, models

import outbox.ids


class Migration(migrations.Migration):
    """What gateways have booked, and how it differs from the ledger."""

    dependencies = [
        ("payments", "0013_several_refunds"),
    ]

    operations = [
        migrations.CreateModel(
            name="Difference",
            fields=[
                ("id", models.UUIDField(editable=False, primary_key=True, serialize=False)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("missing_here", "missing here"),
                            ("unknown", "unknown payment"),
                            ("missing_there", "missing there"),
                            ("differing", "differing"),
                        ],
                        max_length=20,
                        verbose_name="kind",
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[("open", "open"), ("repaired", "repaired"), ("accepted", "accepted")],
                        max_length=10,
                        verbose_name="status",
                    ),
                ),
                ("gateway", models.CharField(max_length=20, verbose_name="gateway")),
                ("transaction_id", models.CharField(blank=True, max_length=100, verbose_name="transaction id")),
                (
                    "what",
                    models.CharField(
                        choices=[
                            ("charge", "charge"),
                            ("refund", "refund"),
                            ("refund_failed", "refund failed"),
                            ("dispute", "dispute"),
                            ("dispute_won", "dispute won"),
                            ("other", "other"),
                        ],
                        max_length=20,
                        verbose_name="what was booked",
                    ),
                ),
                ("payment_id", models.CharField(blank=True, max_length=100, verbose_name="payment id")),
                ("order_id", models.CharField(blank=True, max_length=64, verbose_name="order id")),
                ("entry_id", models.UUIDField(null=True, verbose_name="entry")),
                (
                    "amount_there",
                    models.BigIntegerField(help_text="in minor units", null=True, verbose_name="amount at the gateway"),
                ),
                ("currency_there", models.CharField(blank=True, max_length=3, verbose_name="currency at the gateway")),
                (
                    "amount_here",
                    models.BigIntegerField(help_text="in minor units", null=True, verbose_name="amount in the ledger"),
                ),
                ("currency_here", models.CharField(blank=True, max_length=3, verbose_name="currency in the ledger")),
                ("at", models.DateTimeField(verbose_name="at")),
                ("found_at", models.DateTimeField(verbose_name="found at")),
                ("seen_at", models.DateTimeField(verbose_name="last seen at")),
                ("tried_at", models.DateTimeField(null=True, verbose_name="repair tried at")),
                ("closed_at", models.DateTimeField(null=True, verbose_name="closed at")),
                ("closed_by", models.CharField(blank=True, max_length=150, verbose_name="closed by")),
                ("closed_why", models.CharField(blank=True, max_length=200, verbose_name="reason")),
            ],
            options={
                "verbose_name": "difference from a gateway",
                "verbose_name_plural": "differences from gateways",
            },
        ),
        migrations.CreateModel(
            name="GatewayTransaction",
            fields=[
                ("id", models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ("gateway", models.CharField(max_length=20, verbose_name="gateway")),
                ("transaction_id", models.CharField(max_length=100, verbose_name="transaction id")),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("charge", "charge"),
                            ("refund", "refund"),
                            ("refund_failed", "refund failed"),
                            ("dispute", "dispute"),
                            ("dispute_won", "dispute won"),
                            ("other", "other"),
                        ],
                        max_length=20,
                        verbose_name="kind",
                    ),
                ),
                ("amount", models.BigIntegerField(help_text="in minor units", verbose_name="amount")),
                ("fee", models.BigIntegerField(help_text="in minor units", verbose_name="fee")),
                ("currency", models.CharField(max_length=3, verbose_name="currency")),
                ("fee_currency", models.CharField(max_length=3, verbose_name="currency of the fee")),
                ("at", models.DateTimeField(verbose_name="at")),
                ("payment_id", models.CharField(blank=True, max_length=100, verbose_name="payment id")),
                ("source_id", models.CharField(blank=True, max_length=100, verbose_name="id at the gateway")),
                ("reference", models.CharField(blank=True, max_length=100, verbose_name="order at the gateway")),
                ("order_id", models.CharField(blank=True, max_length=64, verbose_name="order id")),
                ("description", models.CharField(blank=True, max_length=200, verbose_name="description")),
            ],
            options={
                "verbose_name": "transaction of a gateway",
                "verbose_name_plural": "transactions of gateways",
            },
        ),
        migrations.CreateModel(
            name="Reconciliation",
            fields=[
                ("id", models.UUIDField(default=outbox.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("gateway", models.CharField(max_length=20, verbose_name="gateway")),
                ("source", models.CharField(blank=True, max_length=100, verbose_name="source")),
                ("since", models.DateTimeField(verbose_name="from")),
                ("until", models.DateTimeField(verbose_name="until")),
                (
                    "status",
                    models.CharField(
                        choices=[("running", "running"), ("succeeded", "succeeded"), ("failed", "failed")],
                        max_length=10,
                        verbose_name="status",
                    ),
                ),
                ("error", models.CharField(blank=True, max_length=500, verbose_name="error")),
                ("transactions", models.BigIntegerField(default=0, verbose_name="transactions")),
                ("found", models.JSONField(default=list, verbose_name="found")),
                ("started_at", models.DateTimeField(verbose_name="started at")),
                ("finished_at", models.DateTimeField(null=True, verbose_name="finished at")),
            ],
            options={
                "verbose_name": "reconciliation",
                "verbose_name_plural": "reconciliations",
            },
        ),
        migrations.AddIndex(
            model_name="difference",
            index=models.Index(condition=models.Q(("status", "open")), fields=["kind", "id"], name="difference_open"),
        ),
        migrations.AddIndex(
            model_name="difference",
            index=models.Index(
                condition=models.Q(("order_id", ""), _negated=True), fields=["order_id"], name="difference_of_order"
            ),
        ),
        migrations.AddIndex(
            model_name="difference",
            index=models.Index(
                condition=models.Q(("payment_id", ""), _negated=True),
                fields=["payment_id"],
                name="difference_of_payment",
            ),
        ),
        migrations.AddIndex(
            model_name="gatewaytransaction",
            index=models.Index(fields=["gateway", "at"], name="transaction_by_time"),
        ),
        migrations.AddIndex(
            model_name="gatewaytransaction",
            index=models.Index(
                condition=models.Q(("order_id", ""), _negated=True), fields=["order_id"], name="transaction_of_order"
            ),
        ),
        migrations.AddIndex(
            model_name="gatewaytransaction",
            index=models.Index(
                condition=models.Q(("payment_id", ""), _negated=True),
                fields=["payment_id"],
                name="transaction_of_payment",
            ),
        ),
        migrations.AddConstraint(
            model_name="gatewaytransaction",
            constraint=models.UniqueConstraint(fields=("transaction_id", "gateway"), name="one_row_per_transaction"),
        ),
        migrations.AddIndex(
            model_name="reconciliation",
            index=models.Index(
                condition=models.Q(("status", "succeeded")), fields=["gateway", "finished_at"], name="reconciled_last"
            ),
        ),
    ]
