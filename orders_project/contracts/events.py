"""The catalogue of event types: what the endpoints of clients are sent, with schemas and examples."""

from typing import Any

from orders.webhook_endpoints import KINDS

from . import facts


def event_types(described: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each type of an AsyncAPI document: its description, the schema of a webhook's body in full, an example."""
    messages = {kind: described["components"]["messages"][f"webhook.{kind}"] for kind in KINDS}
    return [
        {
            "type": kind,
            "description": message["summary"],
            "schema": facts.in_full(message["payload"], described["components"]["schemas"]),
            "example": message["examples"][0]["payload"],
        }
        for kind, message in messages.items()
    ]
