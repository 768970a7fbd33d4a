"""Each service has a database of its own, and the outbox tables are in each of them."""

from typing import Any

from django.conf import settings
from django.db.models import Model

from common import reads


class Services:
    """
    Routes each service's models to the database of the same name, and everything else to `default`.

    Within a read that may lag, a service's models are read from its standby: see common/reads.py.
    """

    def db_for_write(self, model: type[Model], **hints: Any) -> str | None:
        return self._database(model._meta.app_label)

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        database = self._database(model._meta.app_label)
        return database and reads.source_of(database)

    def allow_relation(self, one: Model, other: Model, **hints: Any) -> bool:
        return _primary(one._state.db) == _primary(other._state.db)

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return db in settings.SERVICES if app_label == "outbox" else db == self._database(app_label)

    def _database(self, app_label: str) -> str | None:
        if app_label in settings.SERVICES:
            return app_label
        # The outbox tables exist in each service: use the proxy models of the service.
        return None if app_label == "outbox" else "default"


def _primary(alias: str | None) -> str | None:
    """The database whose standby this is, or the database itself."""
    return next((database for database, standby in settings.STANDBYS.items() if standby == alias), alias)
