"""Secrets that have to be read again, encrypted in the database with a key that only the environment has."""

import base64
from functools import cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings


class NotReadable(ValueError):
    """None of the keys has encrypted this."""

    code = "not_readable"


def encrypt(text: str) -> str:
    """The text, encrypted with the newest key."""
    return _keys(tuple(settings.ENCRYPTION_KEYS)).encrypt(text.encode()).decode()


def decrypt(sealed: str) -> str:
    """
    The text that was encrypted with one of the keys.

    :raises NotReadable: if it was encrypted with another key, or changed since
    """
    try:
        return _keys(tuple(settings.ENCRYPTION_KEYS)).decrypt(sealed).decode()
    except InvalidToken:
        raise NotReadable("It was not encrypted with any of ENCRYPTION_KEY.") from None


@cache
def _keys(secrets: tuple[str, ...]) -> MultiFernet:
    """The first secret encrypts, each of them decrypts."""
    derived = [
        HKDF(algorithm=SHA256(), length=32, salt=None, info=b"orders: secrets at rest").derive(secret.encode())
        for secret in secrets
    ]
    return MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in derived])
