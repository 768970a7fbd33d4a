"""manage.py grant: create the users of the databases and of the broker, each with what its processes need."""

import json
from argparse import ArgumentParser
from typing import Any
from urllib.parse import urlsplit

import requests
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, connections, transaction

from orders_project.privileges import broker, database
from outbox import patient_ddl
from outbox.broker import nodes
from outbox.sqlstates import LOCKED, sqlstate_of


class Command(BaseCommand):
    help = (
        "Give the roles of the databases and the users of the broker exactly what their processes need. The deployment "
        "runs it after the migrations, as the owner of the databases. DATABASE_PASSWORDS and BROKER_PASSWORDS name "
        "those that are created."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        instead = parser.add_mutually_exclusive_group()
        instead.add_argument("--sql", action="store_true", help="print the SQL for roles that exist, and run nothing")
        instead.add_argument(
            "--definitions", action="store_true", help="print what RabbitMQ imports (rabbitmqctl import_definitions)"
        )

    def handle(self, *args: Any, sql: bool, definitions: bool, **options: Any) -> None:
        if definitions:
            self.stdout.write(json.dumps(self._definitions(), indent=2))
            return
        for alias in settings.DATABASES_HERE:
            if sql:
                self._print(alias)
            else:
                self._grant(alias)
        if not sql:
            self._grant_at_the_broker()

    def _definitions(self) -> dict[str, Any]:
        return broker.definitions(settings.BROKER_PASSWORDS, vhost=broker.vhost_of(settings.AMQP_URL))

    def _print(self, alias: str) -> None:
        everybody = {role.name for role in database.ROLES}
        name = connections[alias].settings_dict["NAME"]
        self.stdout.write(f"-- {alias}")
        for statement in database.statements(alias, name=name, existing=everybody, passwords={}):
            self.stdout.write(f"{statement.as_string(None)};")

    def _grant(self, alias: str) -> None:
        roles = [role.name for role in database.ROLES if role.database == alias]
        with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
            cursor.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", [roles])
            existing = {name for (name,) in cursor.fetchall()}
            cursor.execute("SELECT current_database()")
            (name,) = cursor.fetchone()
            settled = database.settled_in(cursor, alias, existing=existing)
        passwords = settings.DATABASE_PASSWORDS
        try:
            patient_ddl.run(
                alias,
                *database.statements(alias, name=name, existing=existing, passwords=passwords, settled=settled),
            )
        except OperationalError as error:
            if sqlstate_of(error) not in LOCKED:
                raise
            raise CommandError(f"{alias}: somebody has used a table for minutes, whose policies are new") from error
        granted = [role for role in roles if role in existing or role in passwords]
        self.stdout.write(f"{alias}: {', '.join(granted) or 'no role'}")
        if missing := [role for role in roles if role not in granted]:
            raise CommandError(
                f"{alias}: {', '.join(missing)} does not exist yet, and DATABASE_PASSWORDS does not name it"
            )

    def _grant_at_the_broker(self) -> None:
        if not settings.RABBITMQ_MANAGEMENT_URL:
            self.stdout.write("broker: nothing, as RABBITMQ_MANAGEMENT_URL is not set; --definitions prints them")
            return
        if urlsplit(nodes(settings.AMQP_URL)[0]).username in {user.name for user in broker.USERS}:
            raise CommandError("AMQP_URL names a user whose privileges would be taken away: use an administrator")
        try:
            broker.import_into(settings.RABBITMQ_MANAGEMENT_URL, self._definitions())
        except requests.RequestException as error:
            raise CommandError(f"RabbitMQ's management refuses the definitions: {type(error).__name__}") from None
        self.stdout.write(f"broker: {', '.join(user.name for user in broker.USERS)}")
