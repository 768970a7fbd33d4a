from django.db import migrations

from outbox.online_ddl import DeleteOnline, UpdateOnline


class Migration(migrations.Migration):
    """
    What people typed is deleted, everybody logs in once more (sessions lasted two weeks), and what waits for approval
    ends: it names no version of what it was asked for, and can be asked for again.
    """

    atomic = False
    dependencies = [
        ("orders_project", "0007_no_typed_secrets"),
        ("sessions", "0001_initial"),
    ]

    operations = [
        DeleteOnline("axes_accessattempt"),
        DeleteOnline("axes_accessfailurelog"),
        DeleteOnline("axes_accesslog"),
        DeleteOnline("django_session", key="session_key"),
        UpdateOnline(
            "orders_project_approval",
            to="status = 'rejected', decided_by = 'upgrade', decided_at = now()",
            where="status = 'waiting' AND call = '{}'",
        ),
        UpdateOnline(
            "orders_project_approval",
            to="verb = CASE verb WHEN 'compensate_order' THEN 'orders.order.compensate'"
            " ELSE 'payments.webhookreceipt.refund' END",
            where="verb IN ('compensate_order', 'refund_webhook')",
        ),
    ]
