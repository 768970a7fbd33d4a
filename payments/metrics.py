"""The metrics of payments."""

from outbox.metrics import counter, gauge, histogram

GATEWAY_SECONDS = histogram(
    "gateway_call_seconds", "Calls to a gateway, by their outcome.", "gateway", "call", "outcome"
)
BREAKER_STATE = gauge(
    "gateway_breaker_state",
    "Circuit breaker of a gateway: 0 closed, 1 half open, 2 open (the worst of all processes).",
    "gateway",
    over_processes="livemax",
)
WEBHOOKS = counter("webhooks_total", "Webhooks of gateways, by their outcome.", "gateway", "result")
