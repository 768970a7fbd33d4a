from django.db import migrations, models

from outbox.online_ddl import AddFieldNotValid


class Migration(migrations.Migration):
    dependencies = [
        ("payments", "0007_names_per_client"),
    ]

    operations = [
        migrations.AddField(
            model_name="payment",
            name="deadline",
            field=models.DateTimeField(null=True, verbose_name="not to be taken after"),
        ),
        migrations.AddField(
            model_name="payment",
            name="installation",
            field=models.CharField(blank=True, db_default="", default="", max_length=20, verbose_name="installation"),
        ),
        migrations.AddField(
            model_name="payment",
            name="refusal",
            field=models.CharField(
                blank=True, db_default="", default="", max_length=50, verbose_name="refused because"
            ),
        ),
        AddFieldNotValid(
            model_name="payment",
            name="refusals",
            field=models.PositiveSmallIntegerField(db_default=0, default=0, verbose_name="refusals"),
        ),
        migrations.AddField(
            model_name="payment",
            name="settled_by",
            field=models.CharField(blank=True, db_default="", default="", max_length=150, verbose_name="settled by"),
        ),
        migrations.AddField(
            model_name="payment",
            name="settled_why",
            field=models.CharField(
                blank=True, db_default="", default="", max_length=500, verbose_name="how it was settled"
            ),
        ),
        migrations.AlterField(
            model_name="payment",
            name="status",
            field=models.CharField(
                choices=[
                    ("requested", "requested"),
                    ("pending", "pending"),
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
    ]
