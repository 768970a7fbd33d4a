from django.apps import AppConfig
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _


class RoofConfig(AppConfig):
    name = "orders_project"
    verbose_name = _("Back office")

    def ready(self) -> None:
        from outbox.checks import insist_on_rooms_keeping_together

        from . import celery  # noqa: F401 - tasks and signals belong to this app, in every process
        from .backoffice import roles

        insist_on_rooms_keeping_together()
        post_migrate.connect(roles.settle, sender=self)  # this app is the last one, so every permission exists by then
