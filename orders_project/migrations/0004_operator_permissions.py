import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    """
    Renames the model that declares the permissions of operators, and adds the table of performed actions.

    Granted permissions survive: the content type is renamed with the model, and the codenames stay the same.
    """

    dependencies = [
        ("contenttypes", "0002_remove_content_type_name"),
        ("orders_project", "0003_edit_endpoint"),
    ]

    operations = [
        migrations.RenameModel("Verb", "OperatorPermission"),
        migrations.AlterModelOptions(
            name="operatorpermission",
            options={
                "default_permissions": (),
                "managed": False,
                "permissions": [
                    ("retry_order", "repeat the last request of an order"),
                    ("cancel_order", "cancel an order"),
                    ("resolve_order", "resolve an order with evidence"),
                    ("approve", "approve the requests of others"),
                    ("replay_letter", "replay dead letters"),
                    ("discard_letter", "discard dead letters"),
                    ("edit_product", "add and edit products"),
                    ("move_stock", "receive and correct stock"),
                    ("deposit", "deposit money"),
                    ("correct_account", "correct the balance of an account"),
                    ("match_webhook", "match a quarantined webhook with an order"),
                    ("refund_webhook", "refund the money of a quarantined webhook"),
                    ("discard_webhook", "discard a quarantined webhook"),
                    ("resend_webhook", "resend webhooks to customers"),
                    ("edit_endpoint", "register webhook endpoints"),
                ],
            },
        ),
        migrations.CreateModel(
            name="PerformedAction",
            fields=[
                ("request_id", models.UUIDField(primary_key=True, serialize=False, verbose_name="request id")),
                ("performed_at", models.DateTimeField(verbose_name="performed at")),
            ],
            options={"abstract": False, "default_permissions": ()},
        ),
        migrations.AlterField(
            model_name="approval",
            name="verb",
            field=models.CharField(max_length=40, verbose_name="action"),
        ),
        migrations.AlterField(
            model_name="approval",
            name="asked_by",
            field=models.CharField(max_length=150, verbose_name="requested by"),
        ),
        migrations.AlterField(
            model_name="approval",
            name="asked_at",
            field=models.DateTimeField(default=django.utils.timezone.now, verbose_name="requested at"),
        ),
        migrations.AlterField(
            model_name="client",
            name="scopes",
            field=models.TextField(help_text="What the client may do, separated by spaces.", verbose_name="scopes"),
        ),
    ]
