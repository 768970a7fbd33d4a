"""What must be true of a project, so that its outbox can keep what it promises."""

from collections.abc import Iterable, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router

from .consumers import CONSUMERS, unhandled
from .message import REGISTRY
from .services import PROXIES, all_services, database_of, services_here
from .versions import missing_upcasters


@register(Tags.database)
@register(Tags.models)
def services_keep_together(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterable[CheckMessage]:
    """Each service's tables, outbox and inbox must be in one database: otherwise a commit could cover only half."""
    for service in sorted({*all_services(), *services_here()}):
        app = apps.get_app_config(service)
        if missing := [name for name in PROXIES if name.lower() not in app.models]:
            yield from (Error(f"{service} has no model {name}.", id="outbox.E002") for name in missing)
            continue
        ours = database_of(service)
        for model in app.get_models():
            for operation, database in (
                ("written", router.db_for_write(model)),
                ("read", router.db_for_read(model)),
            ):
                if database != ours:
                    yield Error(
                        f"{model._meta.label} is {operation} in {database!r}, its service's outbox is in {ours!r}.",
                        hint="Route all models of a service to one database.",
                        id="outbox.E001",
                    )


def ensure_services_keep_together() -> None:
    """
    Check the same in processes that run no checks when they start, as web servers and workers don't.

    :raises ImproperlyConfigured: if a service is in two databases
    """
    for found in services_keep_together(None):
        raise ImproperlyConfigured(str(found))


@register(Tags.models)
def every_message_has_a_handler(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterable[CheckMessage]:
    """A message to a service without a handler for it would only ever become a dead letter."""
    for name in unhandled():
        yield Error(f"{name} has no handler.", id="outbox.E003")


@register(Tags.models)
def every_batch_has_a_handler(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterable[CheckMessage]:
    """Messages that travel together for a handler of one would only wait for each other."""
    for name, consumer in CONSUMERS.items():
        if consumer.message.batched != (consumer.together is not None):
            yield Error(
                f"{name} and its handler do not agree on whether it is handled together with others.",
                hint="Give the message batched=True and its handler together=, or neither.",
                id="outbox.E006",
            )


@register(Tags.models)
def every_version_is_read(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterable[CheckMessage]:
    """A version without an upcaster could not be read while a release replaces the one before."""
    for message in REGISTRY.values():
        for version in missing_upcasters(message):
            yield Error(
                f"{message.name} has no upcaster from version {version}.",
                hint=f"Write one beside it, or give it oldest={version + 1} if none of them can be under way any more.",
                id="outbox.E005",
            )


@register(Tags.database)
@register(Tags.models)
def databases_run_several_statements(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterable[CheckMessage]:
    """Parameters must be bound in the client: the server takes only one statement with parameters at a time."""
    for database in sorted({database_of(service) for service in all_services()} & set(connections)):
        if connections[database].settings_dict["OPTIONS"].get("server_side_binding"):
            yield Error(
                f"The database {database!r} binds parameters in the server, which takes one statement at a time then.",
                hint="Remove server_side_binding from its OPTIONS.",
                id="outbox.E004",
            )
