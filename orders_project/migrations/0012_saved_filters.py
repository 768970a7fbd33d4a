import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

import outbox.ids


class Migration(migrations.Migration):
    dependencies = [
        ("orders_project", "0011_erasures"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="SavedFilter",
            fields=[
                ("id", models.UUIDField(default=outbox.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ("page", models.CharField(max_length=100, verbose_name="list")),
                ("name", models.CharField(max_length=60, verbose_name="name")),
                ("params", models.JSONField(verbose_name="filter")),
                ("shared", models.BooleanField(default=False, verbose_name="for everyone")),
                ("saved_at", models.DateTimeField(verbose_name="saved at")),
                (
                    "user",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "default_permissions": (),
                "indexes": [models.Index(condition=models.Q(("shared", True)), fields=["page"], name="shared_filters")],
                "constraints": [
                    models.UniqueConstraint(fields=("user", "page", "name"), name="one_saved_filter_of_a_name")
                ],
            },
        ),
    ]
