"""Verify that a webhook comes from Orders: Standard Webhooks, with Python's own library."""

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping

TOLERANCE = 300  # seconds


def is_genuine(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """
    Return whether a webhook was signed with the secret of the endpoint, and lately.

    Verify the body as it came, before you parse it. Act once for each `webhook-id`: a webhook may come again.
    """
    given = {name.lower(): value for name, value in headers.items()}
    message_id, seconds = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not seconds.isascii() or not seconds.isdigit() or abs(time.time() - int(seconds)) > TOLERANCE:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.digest(key, f"{message_id}.{seconds}.".encode() + body, hashlib.sha256)
    expected = b"v1," + base64.b64encode(mac)
    # While a secret is rotated there is a signature for each.
    signatures = given.get("webhook-signature", "").encode().split(b" ")
    return any(hmac.compare_digest(expected, signature) for signature in signatures)
