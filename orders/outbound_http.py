"""
Requests to addresses that customers have registered: only to the public internet, and without following redirects.

# Note [The checked address is the one connected to]: the name is resolved once, every address is checked, and the
# connection goes to a checked address, so that a name that resolves differently a moment later (DNS rebinding) changes
# nothing. Time and size are limited as a whole, however slowly the other side sends.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from django.conf import settings
from django.utils.translation import gettext as _g

CONNECT_TIMEOUT = 3.0
TOTAL_TIMEOUT = 10.0
MAX_ANSWER = 2048  # bytes of an answer that are read
NAT64 = [ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48")]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Refused(Exception):
    """The address is not one that webhooks may be sent to."""

    code = "address_refused"


class Unreachable(Exception):
    """There was no answer."""

    code = "unreachable"


@dataclass(frozen=True)
class Answer:
    """An answer: its status, the beginning of its text, and when to try again."""

    status: int
    text: str
    retry_after: str = ""

    @property
    def is_accepted(self) -> bool:
        return 200 <= self.status < 300


def target(url: str) -> SplitResult:
    """
    Split a URL that webhooks may be sent to.

    :raises Refused: if it is not https with a host, or contains credentials (http is only for loopback, if allowed)
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Refused(_g("This is not a URL.")) from error
    if not url.isascii() or not url.isprintable() or " " in url or not parts.hostname or port == 0:
        raise Refused(_g("This is not a URL."))
    if parts.scheme not in (("https", "http") if settings.WEBHOOKS_ALLOW_LOOPBACK else ("https",)):
        raise Refused(_g("Only https URLs are allowed."))
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise Refused(_g("The URL must not contain credentials or a fragment."))
    return parts


def resolve(parts: SplitResult) -> tuple[str, int]:
    """
    Resolve a host to an address and a port to connect to.

    :raises Refused: if one of its addresses is not public
    :raises Unreachable: if it has none
    """
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreachable(_g("%(host)s has no address.") % {"host": parts.hostname}) from error
    addresses = [ipaddress.ip_address(str(where[0]).partition("%")[0]) for *_, where in found]
    for address in addresses:
        if not may_reach(address, scheme=parts.scheme):
            raise Refused(_g("%(host)s is not a public address.") % {"host": parts.hostname})
    return str(addresses[0]), port


def may_reach(address: Address, *, scheme: str = "https") -> bool:
    """Whether this is an address of the public internet; or of this machine, if that is allowed."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return may_reach(address.ipv4_mapped, scheme=scheme)
        if address.sixtofour or address.teredo or any(address in network for network in NAT64):
            return False  # an IPv4 address is hidden in it
    if address.is_loopback:
        return bool(settings.WEBHOOKS_ALLOW_LOOPBACK)
    return scheme == "https" and address.is_global and not address.is_multicast and not address.is_reserved


def post(url: str, *, headers: Mapping[str, str], body: bytes) -> Answer:
    """
    Send a POST request, once.

    :raises Refused: if the address is not one that webhooks may be sent to
    :raises Unreachable: if there was no answer in time
    """
    parts = target(url)
    address, port = resolve(parts)
    connection = http.client.HTTPConnection(parts.hostname or "", port)
    try:
        raw = socket.create_connection((address, port), timeout=CONNECT_TIMEOUT)
    except OSError as error:
        raise Unreachable(f"{type(error).__name__}: {error}") from error
    deadline = threading.Timer(TOTAL_TIMEOUT, _cut, args=(raw,))
    deadline.start()
    try:
        raw.settimeout(TOTAL_TIMEOUT)
        connection.sock = raw
        if parts.scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=parts.hostname)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", path, body=body, headers={**headers, "Host": parts.netloc})
        answer = connection.getresponse()
        text = answer.read(MAX_ANSWER).decode("utf-8", "replace").replace("\0", "")
        return Answer(answer.status, text, answer.headers.get("Retry-After", ""))
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{type(error).__name__}: {error}") from error
    finally:
        deadline.cancel()
        connection.close()
        raw.close()


def _cut(raw: socket.socket) -> None:
    try:
        raw.shutdown(socket.SHUT_RDWR)
    except OSError:
        raw.close()
