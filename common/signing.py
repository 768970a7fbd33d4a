"""Signatures of webhooks as Standard Webhooks defines them: for those we receive and those we send."""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from datetime import datetime

from .errors import Refusal

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
TOLERANCE = 300
PREFIX = "whsec_"
LONGEST_SIGNATURE = 4096  # characters of the whole header: dozens of signatures

# No full stop: it separates the parts of what is signed, so that an id can't borrow from the timestamp.
_MESSAGE_ID = re.compile(r"[!-\-/-~]{1,255}")
_SECONDS = re.compile(r"[0-9]{1,12}")


class BadSignature(Refusal):
    """The message is not proven to come from a holder of the secret, or not recent."""

    code = "bad_signature"


class MissingHeader(BadSignature):
    code = "signature_missing"


class Malformed(BadSignature):
    code = "signature_malformed"


class Stale(BadSignature):
    code = "signature_stale"


class NoMatch(BadSignature):
    code = "signature_mismatch"


class BadSecret(ValueError):
    """A configured secret can't be used as a key."""

    code = "bad_secret"


def key(secret: str) -> bytes:
    """
    The signing key of a secret: the decoded base64 after `whsec_`, or else the secret itself.

    :raises BadSecret: if it is empty, or a `whsec_` secret isn't base64 of 24 to 64 bytes
    """
    if not secret.startswith(PREFIX):
        if not secret:
            raise BadSecret("A secret must not be empty.")
        return secret.encode()
    encoded = secret.removeprefix(PREFIX).rstrip("=")
    try:
        decoded = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadSecret(f"A {PREFIX} secret must be base64.") from None
    if not 24 <= len(decoded) <= 64:
        raise BadSecret(f"A {PREFIX} secret must have 24 to 64 bytes.")
    return decoded


def sign(*, secrets: Iterable[str], message_id: str, timestamp: datetime, body: bytes) -> dict[str, str]:
    """
    The headers to send with `body`: a signature by each secret, so that receivers can rotate theirs.

    :raises BadSecret: if a secret can't be used
    :raises ValueError: if the id is not valid in the header
    """
    if not _MESSAGE_ID.fullmatch(message_id):
        raise ValueError("A message id must have 1 to 255 printable ASCII characters and no full stop.")
    seconds = str(int(timestamp.timestamp()))
    signatures = [_signature(key(secret), message_id, seconds, body) for secret in secrets]
    if not signatures:
        raise BadSecret("There is no secret to sign with.")
    return {ID: message_id, TIMESTAMP: seconds, SIGNATURE: " ".join(signatures)}


def verify(
    *, secrets: Iterable[str], headers: Mapping[str, str], body: bytes, now: datetime, tolerance: int = TOLERANCE
) -> str:
    """
    Check that a message was signed with one of the secrets no more than `tolerance` seconds from now; return its id.

    :raises BadSignature: a subclass that says what is wrong, and no other error, whatever was received
    :raises BadSecret: if one of our own secrets can't be used
    """
    given = {name.lower(): value for name, value in headers.items() if isinstance(name, str)}
    message_id, seconds, signature = (_header(given, name) for name in (ID, TIMESTAMP, SIGNATURE))
    if not _MESSAGE_ID.fullmatch(message_id):
        raise Malformed(f"{ID} is not a valid id.")
    if not _SECONDS.fullmatch(seconds):
        raise Malformed(f"{TIMESTAMP} is not a time in seconds.")
    if len(signature) > LONGEST_SIGNATURE:
        raise Malformed(f"{SIGNATURE} is too long.")
    signatures = [part.encode("utf-8", "replace") for part in signature.split(" ") if part.startswith("v1,")]
    if not signatures:
        raise Malformed(f"{SIGNATURE} contains no v1 signature.")
    check_age(int(seconds), now=now, tolerance=tolerance)
    expected = [_signature(key(secret), message_id, seconds, body).encode() for secret in secrets]
    if not any_equal(expected, signatures):
        raise NoMatch("No signature matches.")
    return message_id


def check_age(seconds: int, *, now: datetime, tolerance: int = TOLERANCE) -> None:
    """
    Check that a message was signed recently.

    :raises Stale: if it was signed too long ago or in the future
    """
    if abs(now.timestamp() - seconds) > tolerance:
        raise Stale("The message was signed too long ago or in the future.")


def any_equal(expected: list[bytes], given: list[bytes]) -> bool:
    """Whether a value is in both lists, compared in a time that does not depend on how much of it matches."""
    return any(hmac.compare_digest(ours, theirs) for ours in expected for theirs in given)


def _header(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name)
    if not value:
        raise MissingHeader(f"{name} is missing.")
    if not isinstance(value, str):
        raise Malformed(f"{name} is not text.")
    return value


def _signature(key: bytes, message_id: str, seconds: str, body: bytes) -> str:
    signed = f"{message_id}.{seconds}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
