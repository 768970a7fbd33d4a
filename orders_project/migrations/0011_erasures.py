from django.db import migrations, models

import outbox.ids


class Migration(migrations.Migration):
    dependencies = [
        ("orders_project", "0010_corrections_and_clients"),
    ]

    operations = [
        migrations.CreateModel(
            name="Erasure",
            fields=[
                ("id", models.UUIDField(default=outbox.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("names", models.JSONField(default=list, verbose_name="user ids and emails")),
                ("client", models.CharField(max_length=100, null=True, verbose_name="client")),
                ("key", models.BinaryField(null=True)),
                ("reason", models.CharField(max_length=500, verbose_name="reason")),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("waiting", "waiting"),
                            ("running", "running"),
                            ("done", "done"),
                            ("rejected", "rejected"),
                        ],
                        default="waiting",
                        max_length=10,
                        verbose_name="status",
                    ),
                ),
                ("erased", models.JSONField(default=dict, verbose_name="rows erased")),
                ("asked_by", models.CharField(max_length=150, verbose_name="requested by")),
                ("asked_at", models.DateTimeField(verbose_name="requested at")),
                ("decided_by", models.CharField(blank=True, max_length=150, verbose_name="decided by")),
                ("decided_at", models.DateTimeField(null=True, verbose_name="decided at")),
                ("done_at", models.DateTimeField(null=True, verbose_name="done at")),
            ],
            options={
                "verbose_name": "erasure of personal data",
                "verbose_name_plural": "erasures of personal data",
                "permissions": [
                    ("export_person", "export the data of a person"),
                    ("erase_person", "request and approve that the data of a person is erased"),
                ],
                "default_permissions": ("view",),
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("status", "waiting"),
                            models.Q(
                                models.Q(("decided_by", ""), _negated=True),
                                models.Q(("decided_by", models.F("asked_by")), _negated=True),
                            ),
                            _connector="OR",
                        ),
                        name="second_person_erases",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("status__in", ["waiting", "running"]),
                            models.Q(("key", None), ("names", [])),
                            _connector="OR",
                        ),
                        name="erasure_forgets_whom",
                    ),
                ],
            },
        ),
    ]
