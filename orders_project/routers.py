"""Each service has a database of its own, and the outbox tables are in each of them."""

from typing import Any

from django.conf import settings
from django.db.models import Model


class Services:
    """Routes each service's models to the database of the same name, and everything else to `default`."""

    def _database(self, app_label: str) -> str | None:
        if app_label in settings.SERVICES:
            return app_label
        # The outbox tables exist in each service: use the proxy models of the service.
        return None if app_label == "outbox" else "default"

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        return self._database(model._meta.app_label)

    db_for_write = db_for_read

    def allow_relation(self, one: Model, other: Model, **hints: Any) -> bool:
        return one._state.db == other._state.db

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return db in settings.SERVICES if app_label == "outbox" else db == self._database(app_label)
