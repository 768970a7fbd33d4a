"""The catalogue of event types: what the endpoints of clients are sent, with schemas and examples."""

from typing import Any

from orders.webhook_endpoints import KINDS


def event_types(described: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each type of an AsyncAPI document: its description, the schema of a webhook's body in full, an example."""
    messages = {kind: described["components"]["messages"][f"webhook.{kind}"] for kind in KINDS}
    return [
        {
            "type": kind,
            "description": message["summary"],
            "schema": _in_full(message["payload"], described["components"]["schemas"]),
            "example": message["examples"][0]["payload"],
        }
        for kind, message in messages.items()
    ]


def _in_full(schema: Any, schemas: dict[str, Any]) -> Any:
    """A schema with what it refers to in place of the references."""
    if isinstance(schema, list):
        return [_in_full(part, schemas) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if reference := schema.get("$ref"):
        return _in_full(schemas[reference.rpartition("/")[2]], schemas)
    return {name: _in_full(part, schemas) for name, part in schema.items()}
