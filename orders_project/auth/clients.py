"""Making clients of the API: programs that get tokens with their own secret (client_credentials), in no other way."""

import re
from collections.abc import Iterable

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _g
from oauth2_provider.generators import generate_client_secret

from common.errors import Refusal
from common.principal import SCOPES
from orders_project.models import Client

CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")


class BadClient(Refusal):
    """A client of this name or with these scopes cannot be made."""

    code = "bad_client"


class ClientExists(Refusal):
    """There is a client of this name already."""

    code = "client_exists"


def create(*, name: str, scopes: Iterable[str]) -> str:
    """
    Make a client of this name with these scopes; return its secret, which is stored as a hash only.

    :raises BadClient: if the name or a scope is none that there can be
    :raises ClientExists: if the name is taken
    """
    wanted = " ".join(scopes).split()
    if not CLIENT_ID.fullmatch(name):
        raise BadClient(_g("A client id has at most 100 of A-Z a-z 0-9 . _ -"))
    if unknown := sorted(set(wanted) - set(SCOPES)):
        raise BadClient(
            _g("There is no scope %(unknown)s; choose from %(known)s.")
            % {"unknown": ", ".join(unknown), "known": ", ".join(SCOPES)}
        )
    secret = generate_client_secret()
    try:
        with transaction.atomic():
            Client.objects.create(
                client_id=name,
                name=name,
                client_secret=secret,
                client_type=Client.CLIENT_CONFIDENTIAL,
                authorization_grant_type=Client.GRANT_CLIENT_CREDENTIALS,
                scopes=" ".join(wanted),
            )
    except IntegrityError as error:
        raise ClientExists(_g("The client %(name)s exists already. Give it a new secret.") % {"name": name}) from error
    return str(secret)


def renew_secret(*, client: Client) -> str:
    """Give a client a new secret and return it; the old one gets no more tokens."""
    client.client_secret = secret = generate_client_secret()
    client.save(update_fields=["client_secret", "updated"])
    return str(secret)
