from django.apps import AppConfig
from django.db.backends.signals import connection_created
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class OrdersProjectConfig(AppConfig):
    name = "orders_project"
    verbose_name = _("Back office")

    def ready(self) -> None:
        from outbox.checks import ensure_services_keep_together

        from . import celery, celery_signals, silent_servers  # noqa: F401 - tasks and signals of this app, in every process
        from .backoffice import roles

        ensure_services_keep_together()
        connection_created.connect(silent_servers.watch)
        post_migrate.connect(roles.grant_permissions, sender=self)  # the last app: all permissions exist by then
