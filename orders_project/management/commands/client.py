"""manage.py client: manage the OAuth clients of the API, and the keys that sign their tokens."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from common.errors import Refusal
from common.principal import SCOPES
from orders_project.auth import clients, keys
from orders_project.models import Client


class Command(BaseCommand):
    help = "Create, list and remove clients of the API, give them new secrets, and create keys that sign tokens."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="create|list|secret|remove|key")
        create = verbs.add_parser("create", help="create a client and show its secret, once")
        create.add_argument("name", metavar="NAME", help="the client id; it owns what the client creates")
        create.add_argument("--scopes", nargs="+", metavar="SCOPE", required=True, help=f"some of {', '.join(SCOPES)}")
        verbs.add_parser("list", help="show all clients")
        for verb, text in (
            ("secret", "give a client a new secret"),
            ("remove", "remove a client: it gets no more tokens"),
        ):
            verbs.add_parser(verb, help=text).add_argument("name", metavar="NAME", help="the client id")
        key = verbs.add_parser("key", help="create a private key, for JWT_KEY_FILES")
        key.add_argument("path", type=Path, metavar="PATH", help="the file to write")

    def handle(self, *args: Any, verb: str, **options: Any) -> None:
        getattr(self, verb)(**{name: value for name, value in options.items() if name in ("name", "scopes", "path")})

    def create(self, *, name: str, scopes: list[str]) -> None:
        try:
            self._show(name, clients.create(name=name, scopes=scopes))
        except clients.ClientExists as error:
            raise CommandError(f"{str(error).removesuffix('.')}: manage.py client secret {name}") from error
        except Refusal as error:
            raise CommandError(str(error)) from error

    def list(self) -> None:
        for client in Client.objects.order_by("client_id"):
            self.stdout.write(f"{client.client_id}: {client.scopes}")

    def secret(self, *, name: str) -> None:
        self._show(name, clients.renew_secret(client=self._client(name)))

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
