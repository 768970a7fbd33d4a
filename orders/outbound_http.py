"""
Requests to addresses that customers have registered: only to the public internet, and without following redirects.

# Note [The checked address is the one connected to]: the name is resolved once, every address is checked, and the
# connection goes to a checked address, so that a name that resolves differently a moment later (DNS rebinding) changes
# nothing. Time and size are limited as a whole, however slowly the other side sends.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from django.conf import settings
from django.utils.translation import gettext as _g
from django.utils.translation import gettext_noop

from common.deadline import cut_off
from common.errors import Refusal

CONNECT_TIMEOUT = 3.0
TOTAL_TIMEOUT = 10.0
MAX_ANSWER = 2048  # bytes of an answer that are read
DNS_TIMEOUT = 3.0
MAX_CHECKS = 4  # look-ups at once in a process for addresses that somebody registers

_checks = threading.BoundedSemaphore(MAX_CHECKS)

# Note [What is public]: of IPv6 the block that is given out as global unicast, of IPv4 everything, both without what is
# named here. It is written out because the opinion of `ipaddress` differs between versions of Python.
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24",  # assignments of the IETF
        "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # the host of an Azure machine
        "192.168.0.0/16", "198.18.0.0/15",
        "224.0.0.0/4", "240.0.0.0/4",  # multicast, reserved, broadcast
        "2001::/23",  # assignments of the IETF, such as Teredo
        "2001:db8::/32", "3fff::/20",  # documentation
        "2002::/16",  # 6to4: an IPv4 address is hidden in it
    )
]  # fmt: skip
ISATAP = {"00005efe", "02005efe"}  # the second half of such an address begins so, and ends with an IPv4 address

# One text for both, so that nobody learns from us which names our own network has.
NOT_FOUND = gettext_noop("%(host)s has no public address.")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Refused(Exception):
    """The address is not one that webhooks may be sent to."""

    code = "address_refused"


class Unreachable(Exception):
    """There was no answer."""

    code = "unreachable"


class TooManyChecks(Refusal):
    """As many addresses are being checked in this process as may be at once. Try again after `retry_after`."""

    code = "unavailable"


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


def check(url: str) -> None:
    """
    Check that webhooks may be sent to an address which somebody wants to register. `post` decides anew, each time.

    # Note [The DNS of strangers]: whoever registers an address chooses who answers for its name, and when. So a request
    # waits for that in no transaction, and few of them at once. A look-up counts until the resolver gives up, which may
    # be after we do. Those of `post` do not count: a worker sends one webhook after the other.

    :raises Refused: if it is not a URL that webhooks may be sent to, or one of its host's addresses is not public
    :raises Unreachable: if its host has no address, or none in time
    :raises TooManyChecks: if too many are being checked
    """
    parts = target(url)
    if not _checks.acquire(blocking=False):
        raise TooManyChecks(
            _g("Too many addresses are being checked. Try again in a moment."), extra={"retry_after": int(DNS_TIMEOUT)}
        )
    resolve(parts, done=_checks.release)


def resolve(parts: SplitResult, *, done: Callable[[], None] = lambda: None) -> tuple[str, int]:
    """
    Resolve a host to an address and a port to connect to. `done` is called when the resolver has ended.

    :raises Refused: if one of its addresses is not public
    :raises Unreachable: if it has none
    """
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = _look_up(parts.hostname or "", port, done)
    addresses = [ipaddress.ip_address(str(where[0]).partition("%")[0]) for *_, where in found]
    for address in addresses:
        if not may_reach(address, scheme=parts.scheme):
            raise Refused(_g(NOT_FOUND) % {"host": parts.hostname})
    return str(addresses[0]), port


def _look_up(host: str, port: int, done: Callable[[], None]) -> list[tuple[Any, ...]]:
    """
    The system's resolver, which has no timeout of its own: a thread that waits longer is left to it.

    :raises Unreachable: if it finds no address, or none in time
    """
    found: list[tuple[Any, ...]] = []

    def ask() -> None:
        try:
            with contextlib.suppress(OSError, UnicodeError):
                found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        finally:
            done()

    asking = threading.Thread(target=ask, name="dns", daemon=True)
    try:
        asking.start()
    except RuntimeError:  # the process has as many threads as it may have
        done()
        raise
    asking.join(DNS_TIMEOUT)
    if asking.is_alive() or not found:
        raise Unreachable(_g(NOT_FOUND) % {"host": host})
    return found


def may_reach(address: Address, *, scheme: str = "https") -> bool:
    """Whether this is an address of the public internet; or of this machine, if that is allowed."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return may_reach(address.ipv4_mapped, scheme=scheme)
    if address.is_loopback:
        return bool(settings.WEBHOOKS_ALLOW_LOOPBACK)
    is_unicast = address.version == 4 or (address in GLOBAL_UNICAST and address.packed[8:12].hex() not in ISATAP)
    return scheme == "https" and is_unicast and not any(address in network for network in NOT_PUBLIC)


def post(url: str, *, headers: Mapping[str, str], body: bytes) -> Answer:
    """
    Send a POST request, once. An answer that takes too long is cut off, and what has come of it may count.

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
    try:
        with cut_off(raw, after=TOTAL_TIMEOUT):
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
        connection.close()
        raw.close()
