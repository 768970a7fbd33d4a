"""The servers of one run: those that the environment names, and private ones for the rest."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import DATABASES, backup_folder, variable
from .backup_folder import Backups
from .postgres import FOR_TESTS, Postgres
from .postgres_sources import data_of
from .rabbitmq import RabbitMQ, greeting

__all__ = ["DATABASES", "Services", "provide", "variable"]


@dataclass
class Services:
    """What was started, and what to put into the environment to reach it."""

    env: dict[str, str] = field(default_factory=dict)
    postgres: Postgres | None = None
    rabbitmq: RabbitMQ | None = None

    def stop(self) -> None:
        """Stop what was started; the data stay."""
        with contextlib.ExitStack() as stack:
            if self.postgres is not None:
                stack.callback(self.postgres.stop)
            if self.rabbitmq is not None:
                stack.callback(self.rabbitmq.stop)

    def is_settled(self) -> bool:
        """Whether `await_ready` has nothing to wait for."""
        return self.rabbitmq is None or not self.rabbitmq.is_running or bool(greeting(self.rabbitmq.port))

    def await_ready(self) -> None:
        """
        Wait for the broker, whose address in `env` is another one then if its port was snatched away.

        :raises CannotRun: if it does not come up
        """
        if self.rabbitmq is not None:
            self.rabbitmq.await_ready()
            self.env["AMQP_URL"] = self.rabbitmq.url("/")

    def mend(self) -> list[str]:
        """Start again what has died meanwhile; its name for each."""
        mended = []
        if self.postgres is not None and not self.postgres.is_running:
            self.postgres.kill()
            self.postgres.start()
            mended.append("PostgreSQL")
        if self.rabbitmq is not None and not self.rabbitmq.is_running:
            self.rabbitmq.kill()
            self.rabbitmq.start()
            mended.append("RabbitMQ")
        return mended


def begin(home: Path, env: Mapping[str, str], *, for_tests: bool = False) -> Services:
    """
    Start a private server for each part that `env` does not name, with its data under `home`.

    The databases are there then; the broker is on its way, see `Services.await_ready`. Whoever calls this stops the
    servers; if the caller is killed, the kernel ends them.

    :param for_tests: whether the data need not survive a crash of the machine
    :raises CannotRun: if a server cannot be had here or does not come up
    :raises HomeInUse: if another run uses the same home
    """
    services = Services()
    missing = [database for database in DATABASES if not env.get(variable(database))]
    try:
        if not env.get("AMQP_URL"):
            services.rabbitmq = RabbitMQ(home / "rabbitmq")
            services.rabbitmq.launch()  # it takes seconds, so let it start while PostgreSQL does
            services.env["AMQP_URL"] = services.rabbitmq.url("/")
        if missing:
            settings = (FOR_TESTS if for_tests else {}) | _archive(env.get(backup_folder.VARIABLE, ""), home)
            services.postgres = Postgres(home / "postgres", settings=settings)
            services.postgres.start()
            for database in missing:
                services.postgres.create_database(database)
                services.env[variable(database)] = services.postgres.url(database)
    except BaseException:
        services.stop()
        raise
    return services


def _archive(folder: str, home: Path) -> dict[str, str]:
    """The settings of a server that is to be backed up, if it is."""
    if not folder:
        return {}
    kept = Backups.named(folder)
    kept.prepare()
    kept.refuse_another(data_of(home / "postgres"))
    return kept.archive()


def provide(home: Path, env: Mapping[str, str], *, for_tests: bool = False) -> Services:
    """The same, and wait for all of them."""
    services = begin(home, env, for_tests=for_tests)
    try:
        services.await_ready()
    except BaseException:
        services.stop()
        raise
    return services
