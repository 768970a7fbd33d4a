"""What must hold at boot, so that the outbox can keep its promise."""

from collections.abc import Iterable, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.exceptions import ImproperlyConfigured
from django.db import router

from .consumers import unheard


@register(Tags.database)
@register(Tags.models)
def services_keep_together(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterable[CheckMessage]:
    """Each service's tables, outbox and inbox must be in one database: else a commit could cover only half."""
    for service in settings.SERVICES:
        for model in apps.get_app_config(service).get_models():
            for operation, database in (
                ("written", router.db_for_write(model)),
                ("read", router.db_for_read(model)),
            ):
                if database != service:
                    yield Error(
                        f"{model._meta.label} is {operation} in {database!r}, its service's outbox is in {service!r}.",
                        hint="Route every model of a service to the database of the service's name.",
                        id="outbox.E001",
                    )
        for name in ("Outgoing", "Incoming", "DeadLetter"):
            if name.lower() not in apps.get_app_config(service).models:
                yield Error(f"{service} has no mailbox {name}.", id="outbox.E002")


def insist_on_rooms_keeping_together() -> None:
    """
    The same, for processes that run no checks when they start, as web servers and workers don't.

    :raises ImproperlyConfigured: if a service is kept in two databases
    """
    for found in services_keep_together(None):
        raise ImproperlyConfigured(str(found))


@register(Tags.models)
def every_message_is_heard(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterable[CheckMessage]:
    """A message to a service in which nobody handles it would only ever reach the dead letters."""
    for name in unheard():
        yield Error(f"Nobody handles {name}.", id="outbox.E003")
