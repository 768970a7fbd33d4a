import django.db.models.deletion
from django.db import migrations, models

import outbox.ids


class Migration(migrations.Migration):
    dependencies = [
        ("orders_project", "0012_saved_filters"),
    ]

    operations = [
        migrations.CreateModel(
            name="BulkRun",
            fields=[
                ("id", models.UUIDField(default=outbox.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("request_id", models.UUIDField(editable=False, unique=True)),
                ("page", models.CharField(max_length=100, verbose_name="list")),
                ("action", models.CharField(max_length=40, verbose_name="action")),
                ("params", models.JSONField(default=list, verbose_name="filter")),
                ("values", models.JSONField(default=dict, verbose_name="values")),
                ("total", models.IntegerField(verbose_name="rows")),
                (
                    "status",
                    models.CharField(
                        choices=[("running", "running"), ("finished", "finished"), ("stopped", "stopped")],
                        default="running",
                        max_length=10,
                        verbose_name="status",
                    ),
                ),
                ("why_stopped", models.CharField(blank=True, max_length=200, verbose_name="why it was stopped")),
                ("by", models.CharField(max_length=150, verbose_name="by")),
                ("user_id", models.BigIntegerField(editable=False)),
                ("language", models.CharField(editable=False, max_length=10)),
                ("started_at", models.DateTimeField(verbose_name="started at")),
                ("ended_at", models.DateTimeField(null=True, verbose_name="ended at")),
                ("results", models.JSONField(default=dict, editable=False)),
                ("claimed_by", models.UUIDField(editable=False, null=True)),
                ("claimed_until", models.DateTimeField(editable=False, null=True)),
            ],
            options={
                "verbose_name": "bulk action",
                "verbose_name_plural": "bulk actions",
                "default_permissions": ("view",),
                "indexes": [
                    models.Index(condition=models.Q(("status", "running")), fields=["id"], name="bulk_runs_to_do")
                ],
            },
        ),
        migrations.CreateModel(
            name="BulkRow",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", models.CharField(max_length=100)),
                (
                    "outcome",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("", "still to be done"),
                            ("done", "done"),
                            ("skipped", "skipped"),
                            ("failed", "failed"),
                        ],
                        default="",
                        max_length=10,
                    ),
                ),
                ("said", models.CharField(blank=True, default="", max_length=300)),
                (
                    "run",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="rows",
                        to="orders_project.bulkrun",
                    ),
                ),
            ],
            options={
                "default_permissions": (),
                "indexes": [models.Index(fields=["run", "outcome", "id"], name="bulk_rows_by_outcome")],
            },
        ),
    ]
