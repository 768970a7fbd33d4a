"""manage.py client: manage the OAuth clients of the API, and the keys that sign their tokens."""

import re
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from oauth2_provider.generators import generate_client_secret

from common.principal import SCOPES
from orders_project.auth import keys
from orders_project.models import Client

CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")


class Command(BaseCommand):
    help = "Create, list and remove clients of the API, give them new secrets, and create keys that sign tokens."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        create = verbs.add_parser("create", help="create a client and show its secret, once")
        create.add_argument("name", help="the client id; it owns what the client creates")
        create.add_argument("--scopes", nargs="+", metavar="SCOPE", required=True, help=f"some of {', '.join(SCOPES)}")
        verbs.add_parser("list", help="show all clients")
        for verb, text in (
            ("secret", "give a client a new secret"),
            ("remove", "remove a client: it gets no more tokens"),
        ):
            verbs.add_parser(verb, help=text).add_argument("name")
        key = verbs.add_parser("key", help="create a private key, for JWT_KEY_FILES")
        key.add_argument("path", type=Path)

    def handle(self, *args: Any, verb: str, **options: Any) -> None:
        getattr(self, verb)(**{name: value for name, value in options.items() if name in ("name", "scopes", "path")})

    def create(self, *, name: str, scopes: list[str]) -> None:
        if not CLIENT_ID.fullmatch(name):
            raise CommandError("A client id has at most 100 of A-Z a-z 0-9 . _ -")
        wanted = " ".join(scopes).split()
        if unknown := sorted(set(wanted) - set(SCOPES)):
            raise CommandError(f"There is no scope {', '.join(unknown)}; choose from {', '.join(SCOPES)}.")
        if Client.objects.filter(client_id=name).exists():
            raise CommandError(f"The client {name} exists already. `client secret {name}` gives it a new secret.")
        secret = generate_client_secret()
        Client.objects.create(
            client_id=name,
            name=name,
            client_secret=secret,
            client_type=Client.CLIENT_CONFIDENTIAL,
            authorization_grant_type=Client.GRANT_CLIENT_CREDENTIALS,
            scopes=" ".join(wanted),
        )
        self._show(name, secret)

    def list(self) -> None:
        for client in Client.objects.order_by("client_id"):
            self.stdout.write(f"{client.client_id}: {client.scopes}")

    def secret(self, *, name: str) -> None:
        client = self._client(name)
        client.client_secret = secret = generate_client_secret()
        client.save(update_fields=["client_secret", "updated"])
        self._show(name, secret)

    def remove(self, *, name: str) -> None:
        self._client(name).delete()
        self.stdout.write(f"{name} gets no more tokens. A token that it has works until it expires.")

    def key(self, *, path: Path) -> None:
        try:
            keys.make(path)
        except OSError as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"{path} contains a new private key. Put it first in JWT_KEY_FILES.")

    def _client(self, name: str) -> Client:
        client = Client.objects.filter(client_id=name).first()
        if client is None:
            raise CommandError(f"There is no client {name}.")
        return client

    def _show(self, name: str, secret: str) -> None:
        self.stdout.write(f"client_id={name}\nclient_secret={secret}")
