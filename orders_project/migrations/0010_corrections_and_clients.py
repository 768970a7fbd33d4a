from django.db import migrations


class Migration(migrations.Migration):
    """People may be allowed to correct the data of dead letters, and to create clients of the API."""

    dependencies = [
        ("orders_project", "0009_capture_and_refund_orders"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="operatorpermission",
            options={
                "default_permissions": (),
                "managed": False,
                "permissions": [
                    ("retry_order", "repeat the last request of an order"),
                    ("cancel_order", "cancel an order"),
                    ("capture_order", "capture the money that is reserved for an order"),
                    ("refund_order", "refund money of an order that stays"),
                    ("resolve_order", "resolve an order with evidence"),
                    ("approve", "approve the requests of others"),
                    ("replay_letter", "replay dead letters"),
                    ("discard_letter", "discard dead letters"),
                    ("correct_message", "correct the data of dead letters and replay them"),
                    ("edit_product", "add and edit products"),
                    ("move_stock", "receive and correct stock"),
                    ("deposit", "deposit money"),
                    ("correct_account", "correct the balance of an account"),
                    ("match_webhook", "match a quarantined webhook with an order"),
                    ("refund_webhook", "refund the money of a quarantined webhook"),
                    ("discard_webhook", "discard a quarantined webhook"),
                    ("resend_webhook", "resend webhooks to customers"),
                    ("edit_endpoint", "register webhook endpoints"),
                    ("edit_client", "create clients of the API and renew their secrets"),
                ],
            },
        ),
    ]
