"""Where a request comes from."""

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network

from django.conf import settings
from django.http import HttpRequest

IPV6_PREFIX = 64  # what one subscriber has; most have more


def address_of(peer: str, forwarded: Iterable[str]) -> str:
    """
    The address that a request comes from: the last one on its way that is not one of our own proxies.

    `forwarded` are the X-Forwarded-For headers; only what a trusted proxy has added to them counts.
    """
    way = [hop.strip() for header in forwarded for hop in header.split(",")] + [peer]
    origin = peer
    for hop in reversed(way):
        try:
            address = ip_address(hop)
        except ValueError:
            break
        origin = str(address)
        if not any(address in network for network in settings.TRUSTED_PROXIES):
            break
    return origin


def client_address(request: HttpRequest) -> str:
    """The address that an HTTP request comes from."""
    forwarded = request.headers.get("X-Forwarded-For")
    return address_of(request.META.get("REMOTE_ADDR", ""), [forwarded] if forwarded else [])


def source_of(address: str) -> str:
    """What limits by address are counted for: an IPv4 address, or the network of an IPv6 address with its 2^64."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ip_network((int(parsed), IPV6_PREFIX), strict=False))
    return str(parsed)
