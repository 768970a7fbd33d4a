"""
The keys that sign tokens and prove them: RSA keys in PEM files, the newest first.

The first private key signs; every key of the list proves what it has signed. So a key is rotated by putting a new one
first, and dropping the old one when its last token has expired. Where tokens are only proven, public keys are enough.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key
from django.conf import settings
from jwt.algorithms import RSAAlgorithm

ALGORITHM = "RS256"
TYPE = "at+jwt"  # RFC 9068
AUDIENCE = "orders"
LEAST_BITS = 2048
LEEWAY = 10  # seconds between two machines' clocks


class NoKey(ValueError):
    """A file of the list holds no key that is good enough."""


@dataclass(frozen=True)
class Key:
    """A key by its name, which follows from the key (RFC 7638)."""

    kid: str
    public: RSAPublicKey
    private: RSAPrivateKey | None

    def jwk(self) -> dict[str, str]:
        return _jwk(self.public) | {"kid": self.kid, "use": "sig", "alg": ALGORITHM}


def current() -> tuple[Key, ...]:
    """The keys of this process, the newest first."""
    return load(tuple(settings.JWT_KEY_FILES))


@cache
def load(paths: Sequence[str]) -> tuple[Key, ...]:
    """
    Read these files.

    :raises NoKey: naming the first that is no RSA key of at least 2048 bits
    """
    return tuple(_read(Path(path)) for path in paths)


def _read(path: Path) -> Key:
    pem = path.read_bytes()
    try:
        if b"PRIVATE KEY" in pem:
            private = serialization.load_pem_private_key(pem, password=None)
            assert isinstance(private, RSAPrivateKey)
            public: Any = private.public_key()
        else:
            private, public = None, serialization.load_pem_public_key(pem)
            assert isinstance(public, RSAPublicKey)
    except (ValueError, TypeError, AssertionError):
        raise NoKey(f"{path} holds no RSA key without a password, in PEM.") from None
    if public.key_size < LEAST_BITS:
        raise NoKey(f"{path} holds a key of {public.key_size} bits: at least {LEAST_BITS}.")
    thumb = json.dumps(_jwk(public), sort_keys=True, separators=(",", ":"))
    kid = base64.urlsafe_b64encode(hashlib.sha256(thumb.encode()).digest()).rstrip(b"=").decode()
    return Key(kid=kid, public=public, private=private)


def _jwk(public: RSAPublicKey) -> dict[str, str]:
    said = RSAAlgorithm.to_jwk(public, as_dict=True)
    return {name: str(said[name]) for name in ("e", "kty", "n")}


def make(path: Path) -> None:
    """Write a new private key, for its owner's eyes only."""
    key = generate_private_key(public_exponent=65537, key_size=3072)
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def sign(claims: dict[str, Any]) -> str:
    """
    A token that says this.

    :raises NoKey: if there is no private key here
    """
    key = next((key for key in current() if key.private is not None), None)
    if key is None or key.private is None:
        raise NoKey("JWT_KEY_FILES names no private key: no token can be signed here.")
    claims = {"iss": settings.PUBLIC_URL, "aud": AUDIENCE} | claims
    return jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"kid": key.kid, "typ": TYPE})


def prove(token: str) -> dict[str, Any]:
    """
    What a token says, if one of the keys has signed it and it has not expired.

    :raises jwt.InvalidTokenError: if not
    """
    header = jwt.get_unverified_header(token)
    key = next((key for key in current() if key.kid == header.get("kid")), None)
    if key is None or header.get("typ") != TYPE:
        raise jwt.InvalidTokenError("No key of ours has signed this.")
    claims: dict[str, Any] = jwt.decode(
        token,
        key.public,
        algorithms=[ALGORITHM],
        audience=AUDIENCE,
        issuer=settings.PUBLIC_URL,
        leeway=LEEWAY,
        options={"require": ["exp", "iat", "iss", "aud", "sub", "scope"]},
    )
    return claims
