"""
A service: an app that declares proxies of its own named `Outgoing`, `Incoming` and `DeadLetter`.

Its database is the one to which the project's routers send these proxies.
"""

from typing import Any

from django.apps import apps
from django.db import router

from . import conf

PROXIES = ("Outgoing", "Incoming", "DeadLetter")


def model_of(service: str, name: str) -> Any:
    """Return a service's own `Outgoing`, `Incoming` or `DeadLetter`."""
    return apps.get_model(service, name)


def database_of(service: str) -> str:
    """Return the alias of the database that holds a service's outbox, inbox and dead letters."""
    return router.db_for_write(model_of(service, "Outgoing"))


def all_services() -> tuple[str, ...]:
    """Return the labels of all the services of the project."""
    base = apps.get_app_config("outbox")
    ours = {base.get_model(name) for name in ("OutgoingMessage", "IncomingMessage", "DeadLetter")}
    return tuple(
        app.label
        for app in apps.get_app_configs()
        if app is not base and any(ours & set(model.__mro__) for model in app.get_models())
    )


def services_here() -> tuple[str, ...]:
    """Return the services of this process: see `OUTBOX_SERVICES`."""
    services = conf.OUTBOX_SERVICES
    return all_services() if services is None else tuple(services)
