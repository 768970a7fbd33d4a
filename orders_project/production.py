"""What a run may not be started with, unless it is embedded or for development."""

import re
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

DEV_SECRETS = {"dev-admin-secret", "dev-webhook-secret", "dev-secret-key", "dev-encryption-key"}
MIN_DISTINCT = 6  # characters of a secret; random ones of 16 digits have more
# A random secret may contain todo, in upper or lower case, so only the word by itself counts.
PLACEHOLDER = re.compile(
    r"change.?me|example|insecure|placeholder|replace|password|(?<![^\W_])todo(?![^\W_])|your.?secret", re.IGNORECASE
)


def weakness(secret: str, *, min_length: int) -> str:
    """Why this is not a secret; empty if it is one."""
    if secret in DEV_SECRETS:
        return "is a development secret, which only the embedded run accepts"
    if len(secret) < min_length:
        return f"is too short: at least {min_length} characters"
    if len(set(secret)) < MIN_DISTINCT:
        return "is easy to guess: use random characters"
    if PLACEHOLDER.search(secret):
        return "is a placeholder: use random characters"
    return ""


def is_public_http(url: str) -> bool:
    """Whether requests to this URL go over a network without TLS."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme == "http" and not (
        host in ("localhost", "::1") or host.endswith(".localhost") or re.fullmatch(r"127(\.\d+){3}", host)
    )


# Whether something is unsafe, asked with the settings; and what to do, in a line.
RULES: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        lambda s: is_public_http(s.PUBLIC_URL),
        "PUBLIC_URL is http://, so sessions and tokens would travel unencrypted. Use https://.",
    ),
    (
        lambda s: any("*" in host for host in s.ALLOWED_HOSTS),
        "ALLOWED_HOSTS accepts every host. Name those of PUBLIC_URL and of your probes.",
    ),
    (
        lambda s: any(network.prefixlen == 0 for network in s.TRUSTED_PROXIES),
        "TRUSTED_PROXIES trusts everybody. Name the networks of your proxies.",
    ),
    (
        lambda s: s.API_AUTH == "open" and not s.API_AUTH_OPEN_ACKNOWLEDGED,
        "API_AUTH is open: anybody could call the API and see everything. "
        "If that is intended, set API_AUTH_OPEN_ACKNOWLEDGED=true.",
    ),
    (
        lambda s: s.TAKES_PAYMENTS and not s.PAYMENT_GATEWAY,
        "PAYMENT_GATEWAY is missing: stripe, or fake, which takes no money.",
    ),
    (
        lambda s: s.TAKES_PAYMENTS and s.PAYMENT_GATEWAY == "fake" and not s.FAKE_GATEWAY_ACKNOWLEDGED,
        "PAYMENT_GATEWAY is fake: goods would go out and nobody would pay. "
        "If that is intended, set FAKE_GATEWAY_ACKNOWLEDGED=true.",
    ),
    (
        lambda s: s.TEST_MODE and not (s.PAYMENT_GATEWAY == "fake" and s.FAKE_GATEWAY_ACKNOWLEDGED),
        "TEST_MODE lets whoever orders decide what goes wrong. Remove it; "
        "for a sandbox, set PAYMENT_GATEWAY=fake and FAKE_GATEWAY_ACKNOWLEDGED=true.",
    ),
    (
        lambda s: is_public_http(s.STRIPE_API_URL),
        "STRIPE_API_URL is http://, so the key of the account would travel unencrypted. Use https://.",
    ),
    (
        lambda s: s.WEBHOOKS_ALLOW_LOOPBACK and not s.WEBHOOKS_ALLOW_LOOPBACK_ACKNOWLEDGED,
        "WEBHOOKS_ALLOW_LOOPBACK lets customers reach the ports of this machine. Remove it; "
        "if that is intended, set WEBHOOKS_ALLOW_LOOPBACK_ACKNOWLEDGED=true.",
    ),
)


def problems(settings: Mapping[str, Any]) -> list[str]:
    """What is unsafe about these settings, in a line each."""
    asked = SimpleNamespace(**settings)
    return [advice for is_unsafe, advice in RULES if is_unsafe(asked)]
