"""
The keys that sign and verify tokens: RSA keys in PEM files, the newest first.

The first private key signs; every key of the list verifies what it has signed. So a key is rotated by putting a new one
first, and removing the old one when its last token has expired. Where tokens are only verified, public keys are enough.
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
MIN_BITS = 2048
LEEWAY = 10  # seconds that the clocks of two machines may differ


class NoKey(ValueError):
    """A file of the list does not contain a suitable key."""


@dataclass(frozen=True)
class Key:
    """A key with its id, which is its thumbprint (RFC 7638)."""

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

    :raises NoKey: naming the first that is not an RSA key of at least 2048 bits
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
        raise NoKey(f"{path} does not contain an RSA key in PEM without a password.") from None
    if public.key_size < MIN_BITS:
        raise NoKey(f"{path} contains a key of {public.key_size} bits; it must have at least {MIN_BITS}.")
    thumb = json.dumps(_jwk(public), sort_keys=True, separators=(",", ":"))
    kid = base64.urlsafe_b64encode(hashlib.sha256(thumb.encode()).digest()).rstrip(b"=").decode()
    return Key(kid=kid, public=public, private=private)


def _jwk(public: RSAPublicKey) -> dict[str, str]:
    jwk = RSAAlgorithm.to_jwk(public, as_dict=True)
    return {name: str(jwk[name]) for name in ("e", "kty", "n")}


def make(path: Path) -> None:
    """Write a new private key to a file that only its owner can read."""
    key = generate_private_key(public_exponent=65537, key_size=3072)
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def sign(claims: dict[str, Any]) -> str:
    """
    Sign a token with these claims.

    :raises NoKey: if there is no private key
    """
    key = next((key for key in current() if key.private is not None), None)
    if key is None or key.private is None:
        raise NoKey("JWT_KEY_FILES has no private key, so tokens cannot be signed.")
    claims = {"iss": settings.PUBLIC_URL, "aud": AUDIENCE} | claims
    return jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"kid": key.kid, "typ": TYPE})


def verify(token: str) -> dict[str, Any]:
    """
    The claims of a token.

    :raises jwt.InvalidTokenError: if none of the keys has signed it, or it has expired
    """
    header = jwt.get_unverified_header(token)
    key = next((key for key in current() if key.kid == header.get("kid")), None)
    if key is None or header.get("typ") != TYPE:
        raise jwt.InvalidTokenError("The token was not signed with one of the keys.")
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
