"""
The API as a Postman collection (v2.1), the form that API clients exchange: a folder for each tag, in the order in which
the requests can be sent one after the other.
"""

import json
from collections.abc import Iterator
from typing import Any

FORMAT = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
DESCRIPTION = """
Set `base_url`, `client_id` and `client_secret` (`manage.py client create` shows them), send *Get a token*, and the
other requests are made with it. Requests that change the catalog need `admin_secret`, or a token with the scope
`products:write`. Values that later requests need, such as `order_id`, are taken from the answers.
""".strip()
VARIABLES = {
    "base_url": "http://127.0.0.1:8000", "client_id": "shop", "client_secret": "", "token": "",
    "admin_secret": "dev-admin-secret", "user_id": "ann", "order_id": "ord-001",
    "product_id": "01a1fe01-4d49-7bd4-9e70-2e5fa2680929",
    "refund_id": "01a1fe01-4d49-7bd4-9e70-2e5fa2680929",
    "endpoint_id": "01a1fe01-4d49-7bd4-9e70-2e5fa2680929", "delivery_id": "01a1fe01-4d49-7bd4-9e70-2e5fa2680929",
    "url": "https://shop.example/webhooks",
}  # fmt: skip
NOT_FOR_CLIENTS = "webhooks"  # gateways call these, and sign what they send
ORDER = ("post", "patch", "get", "delete")  # what is asked for was made before
# Which fields of an answer become which variables.
KEPT = {
    "get_token": {"access_token": "token"},
    "make_product": {"product_id": "product_id"},
    "refund_order": {"refund_id": "refund_id"},
    "place_order": {"order_id": "order_id"},
    "register_webhook_endpoint": {"endpoint_id": "endpoint_id"},
    "ping_webhook_endpoint": {"delivery_id": "delivery_id"},
}


def document(api: dict[str, Any]) -> dict[str, Any]:
    """Return the collection of the requests that an OpenAPI document describes."""
    folders = {tag["name"]: tag["description"] for tag in api["tags"] if tag["name"] != NOT_FOR_CLIENTS}
    return {
        "info": {"name": api["info"]["title"], "description": DESCRIPTION, "schema": FORMAT},
        "auth": {"type": "bearer", "bearer": [{"key": "token", "value": "{{token}}", "type": "string"}]},
        "variable": [{"key": name, "value": value, "type": "string"} for name, value in VARIABLES.items()],
        "item": [
            _get_token(),
            *(
                {"name": tag, "description": description, "item": list(_requests(api, tag))}
                for tag, description in folders.items()
            ),
        ],
    }


def text_of(collection: dict[str, Any]) -> str:
    """Return the collection as it is written."""
    return json.dumps(collection, indent=2, ensure_ascii=False) + "\n"


def _get_token() -> dict[str, Any]:
    form = {"grant_type": "client_credentials", "client_id": "{{client_id}}", "client_secret": "{{client_secret}}"}
    body = {"mode": "urlencoded", "urlencoded": [{"key": key, "value": value} for key, value in form.items()]}
    request = {"method": "POST", "auth": {"type": "noauth"}, "header": [], "body": body, "url": _url("/oauth/token")}
    return _item("Get a token", "get_token", request)


def _requests(api: dict[str, Any], tag: str) -> Iterator[dict[str, Any]]:
    """The requests of a folder; one that has several examples is there with each of them."""
    found = [
        (ORDER.index(method), path.count("{"), path, method, operation)
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
        if tag in operation["tags"]
    ]
    for _, _, path, method, operation in sorted(found, key=lambda each: each[:3]):
        name = operation["operationId"]
        title = name.replace("_", " ").capitalize()
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        examples = (content or {}).get("examples", {"": {"value": {}}})
        for example, described in examples.items():
            request = _request(path, method, operation)
            if content:
                value = {key: value for key, value in described["value"].items() if key not in ("order_id", "sku")}
                request["header"].append({"key": "Content-Type", "value": "application/json"})
                request["body"] = {
                    "mode": "raw", "raw": json.dumps(_filled(value), indent=2),
                    "options": {"raw": {"language": "json"}},
                }  # fmt: skip
            yield _item(f"{title}: {example}" if len(examples) > 1 else title, name, request)


def _request(path: str, method: str, operation: dict[str, Any]) -> dict[str, Any]:
    request: dict[str, Any] = {
        "method": method.upper(), "description": operation["description"],
        "header": [_parameter(each) for each in operation.get("parameters", ()) if each["in"] == "header"],
        "url": _url(path, [_parameter(each) for each in operation.get("parameters", ()) if each["in"] == "query"]),
    }  # fmt: skip
    schemes = {scheme for alternative in operation.get("security", ()) for scheme in alternative}
    if "admin_secret" in schemes:
        request["header"].append({"key": "X-Admin-Secret", "value": "{{admin_secret}}"})
    if "clients" not in schemes:
        request["auth"] = {"type": "noauth"}
    return request


def _parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    """A header or a parameter of the query; one that may be left out is there to be switched on."""
    name, needed = parameter["name"], parameter.get("required", False)
    value = f"{{{{{name}}}}}" if name in VARIABLES else ""
    return {"key": name, "value": value, "description": parameter.get("description", ""), "disabled": not needed}


def _url(path: str, query: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    parts = path.strip("/").replace("{", "{{").replace("}", "}}").split("/")
    needed = "&".join(f"{each['key']}={each['value']}" for each in query or () if not each["disabled"])
    raw = "/".join(["{{base_url}}", *parts]) + (f"?{needed}" if needed else "")
    return {"raw": raw, "host": ["{{base_url}}"], "path": parts, **({"query": query} if query else {})}


def _filled(value: Any) -> Any:
    """An example with variables in place of the ids that an installation gives."""
    if isinstance(value, list):
        return [_filled(each) for each in value]
    if isinstance(value, dict):
        return {
            key: f"{{{{{key}}}}}" if key in VARIABLES and isinstance(each, str) else _filled(each)
            for key, each in value.items()
        }
    return value


def _item(title: str, operation: str, request: dict[str, Any]) -> dict[str, Any]:
    lines = [
        f'pm.collectionVariables.set("{variable}", pm.response.json().{field});'
        for field, variable in KEPT.get(operation, {}).items()
    ]
    script = [{"listen": "test", "script": {"type": "text/javascript", "exec": lines}}] if lines else []
    return {"name": title, **({"event": script} if script else {}), "request": request}
