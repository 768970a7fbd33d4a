"""The description of the API (OpenAPI 3.1): what drf-spectacular cannot take from the views."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.validators import RegexValidator
from drf_spectacular.extensions import (
    OpenApiAuthenticationExtension,
    OpenApiSerializerExtension,
    OpenApiSerializerFieldExtension,
)
from drf_spectacular.openapi import AutoSchema
from rest_framework.serializers import ListSerializer

from common import fields, money
from common.principal import SCOPES, scope_of

from . import deprecation, headers
from .errors import MEDIA_TYPE
from .problem_types import BY_STATUS

CLIENTS, ADMIN_SECRET = "clients", "admin_secret"

# By these the operations are grouped in documents, collections and generated clients.
TAGS = {
    "products": "The catalog and its stock.",
    "accounts": "The accounts that orders are paid from.",
    "orders": "Orders and what became of them.",
    "webhook-endpoints": "Where a client is told what becomes of its orders, and what was sent there.",
    "events": "What endpoints and subscribers are told.",
    "grpc": "Orders over gRPC, for those who speak HTTP.",
    "webhooks": "What payment gateways report.",
}
TAGGED_OTHERWISE = {"admin": "products", "event-types": "events"}  # than by the first part of the path

DESCRIPTION = """
Orders, the accounts and gateways that pay for them, and the stock that they hold.

Errors are problem documents (RFC 9457): `code` is stable, `errors` has the details by field, and `correlation_id` finds
the request in the logs. Amounts are exact JSON numbers in units of the currency. Paths work with a trailing slash too.

Messages, events and outgoing webhooks are described at [/asyncapi](/asyncapi).
"""

# Strings without control characters, and those that are not blank either.
ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f]+$"
NOT_BLANK = r"^[^\x00-\x1f\x7f-\x9f]*[^\x00-\x1f\x7f-\x9f\s][^\x00-\x1f\x7f-\x9f]*$"

ANSWERS = {
    "400": "The request is not valid; `errors` says why, by field.",
    "401": "The token is missing or not valid.",
    "403": "The token does not allow this.",
    "404": "It does not exist, or belongs to somebody else.",
    "405": "The path does not have this method.",
    "406": "The format that was asked for is not available.",
    "409": "The request is valid, but not possible now; `code` says why.",
    "412": "It has changed in the meantime; read it again.",
    "413": "The body is larger than 256 KB.",
    "415": "Send JSON.",
    "422": "The request cannot be processed.",
    "429": "Too many requests; `Retry-After` says when to try again.",
    "500": "The server failed; report it with the correlation id.",
    "503": "A part of the system is not available; try again.",
}
MAY_BE_EMPTY = frozenset({"cancel_order"})  # whose bodies may be left out
WITH_BODY = ("409", "413", "415", "429")
OF_EVERY_ANSWER = {name: {"$ref": f"#/components/headers/{name}"} for name in headers.MEANINGS}

PROBLEM = {
    "type": "object",
    "description": "An error (RFC 9457).",
    "required": ["type", "title", "status", "detail", "code", "correlation_id"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {
            "type": "string",
            "description": "Stable. `GET /problems` lists all codes and what they mean; there may be more.",
        },
        "correlation_id": {"type": "string"},
        "errors": {
            "type": "object",
            "description": "By field, such as `items[0].price`.",
            "additionalProperties": {"type": "array", "items": {"type": "string"}},
        },
    },
    "examples": [
        {
            "type": "https://shop.example/problems/insufficient_stock",
            "title": "Insufficient stock",
            "status": 409,
            "detail": "There is not enough of LAMP.",
            "code": "insufficient_stock",
            "correlation_id": "0f4c1c5ad5a44d58a1a4bb0f6b0f5f0e",
        }
    ],
}

_BY_CATALOGUE = {
    "user_email": "customer@example.com",
    "items": [{"product_id": "01a1fe01-4d49-7bd4-9e70-2e5fa2680929", "quantity": 2}],
}
_BY_LINES = {
    "order_id": "ord-001",
    "customer_id": "cust-123",
    "items": [{"sku": "laptop", "quantity": 1, "price": 1200.0}],
}
_BY_AMOUNT = {"user_id": "ann", "amount": "19.99", "description": "A lamp"}
_BY_KINDS = {
    "user_id": "ann",
    "items": [
        {"sku": "demo-lamp", "quantity": 1, "price": 39.9},
        {"type": "discount", "name": "Regular customer", "amount": 3.9, "of": 1},
        {"type": "tax", "name": "VAT 19%", "amount": 6.84, "of": 1},
        {"type": "shipping", "name": "Parcel", "amount": 4.9},
    ],
    "currency": "USD",
    "total_amount": 47.74,
}
_ORDER_EXAMPLES = {
    "lines": {"summary": "Products by sku, with their prices (of the demo data)", "value": _BY_LINES},
    "catalogue": {"summary": "Products by id, at their prices", "value": _BY_CATALOGUE},
    "amount": {"summary": "An amount alone, where free lines are allowed", "value": _BY_AMOUNT},
    "kinds": {"summary": "Taxes, discounts and shipping as lines", "value": _BY_KINDS},
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "place_order": _ORDER_EXAMPLES,
    "grpc_place_order": _ORDER_EXAMPLES,
    "register_webhook_endpoint": {
        "shop": {"value": {"url": "https://shop.example/webhooks", "events": ["order.paid", "order.canceled"]}}
    },
    "change_webhook_endpoint": {"description": {"value": {"description": "The warehouse"}}},
    "deposit": {"deposit": {"value": {"amount": 50}}},
    "make_product": {"lamp": {"value": {"name": "Lamp", "price": 19.99, "stock": 10, "sku": "LAMP"}}},
    "change_product": {"price": {"value": {"price": 24.99}}},
}


class Schema(AutoSchema):
    """Names the operations of the views that do not name them, and groups all of them."""

    def get_tags(self) -> list[str]:
        (tag,) = super().get_tags()
        return [TAGGED_OTHERWISE.get(tag, tag)]

    def get_operation_id(self) -> str:
        named = {
            "Products": "list_products",
            "OneProduct": "get_product",
            "MakeProduct": "make_product",
            "ChangeProduct": "change_product",
        }
        return named.get(type(self.view).__name__) or super().get_operation_id()


class Tokens(OpenApiAuthenticationExtension):
    target_class = "orders_project.auth.authentication.Bearer"
    name = CLIENTS

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        flow = {"tokenUrl": f"{settings.PUBLIC_URL}/oauth/token", "scopes": SCOPES}
        return {"type": "oauth2", "flows": {"clientCredentials": flow}}

    def get_security_requirement(self, auto_schema: Any) -> dict[str, list[str]]:
        view, method = auto_schema.view, auto_schema.method
        scope = scope_of(view, method)
        return {} if scope is None or method in getattr(view, "public_methods", ()) else {self.name: [scope]}


class StrictSerializer(OpenApiSerializerExtension):
    """Allows no unknown field, and adds the rules between fields."""

    target_class = "common.fields.StrictSerializer"
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        schema: dict[str, Any] = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        for name, field in self.target.fields.items():
            if isinstance(field, ListSerializer):
                schema["properties"][name] |= {"minItems": 0 if field.allow_empty else 1, "maxItems": field.max_length}  # type: ignore[attr-defined]
        return schema | {"additionalProperties": False} | self.target.schema_of_rules()


class TextField(OpenApiSerializerFieldExtension):
    target_class = "common.fields.Text"

    def map_serializer_field(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        if any(isinstance(validator, RegexValidator) for validator in self.target.validators):
            return {"type": "string"}  # the validator adds its pattern
        return {"type": "string", "pattern": ONE_LINE if self.target.allow_blank else NOT_BLANK}


class MetadataField(OpenApiSerializerFieldExtension):
    target_class = "common.fields.Metadata"

    def map_serializer_field(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        return {
            "type": "object",
            "maxProperties": self.target.MAX_KEYS,
            "propertyNames": {"minLength": 1, "maxLength": self.target.MAX_KEY, "pattern": ONE_LINE},
            "additionalProperties": {
                "type": "string",
                "maxLength": self.target.MAX_VALUE,
                "pattern": ONE_LINE.replace("+", "*"),
            },
            "examples": [{"campaign": "winter", "cart": "8f14"}],
        }


class AmountField(OpenApiSerializerFieldExtension):
    target_class = "common.fields.Amount"

    def map_serializer_field(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        currency = self.target.given_currency
        return amount_schema(self.target, [currency] if currency else settings.CURRENCIES)


def amount_schema(amount: Any, currencies: Sequence[str]) -> dict[str, Any]:
    """Whatever is an amount in one of these currencies: which of them, JSON Schema does not know."""
    exponents = [money.EXPONENTS[currency] for currency in currencies]
    exponent = max(exponents)
    least = amount.min_value / 10**exponent
    most = amount.max_value / 10 ** min(exponents)
    whole = rf"(0|[1-9][0-9]{{0,{len(str(money.LARGEST)) - min(exponents) - 2}}})"
    decimals = rf"(\.[0-9]{{1,{exponent}}}0{{0,6}})?" if exponent else r"(\.0{1,9})?"
    something = "(?=.*[1-9])" if amount.min_value else ""
    return {
        "oneOf": [
            {"type": "number", "minimum": least, "maximum": most},
            {"type": "string", "pattern": f"^{something}{whole}{decimals}$"},
        ],
        "examples": [1200.0, "19.99"],
    }


class AmountsField(OpenApiSerializerFieldExtension):
    target_class = "common.fields.Amounts"

    def map_serializer_field(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        def amount(currency: str) -> dict[str, Any]:
            schema = amount_schema(fields.Amount(), [currency])
            return {"oneOf": [*schema["oneOf"], {"type": "null"}]} if self.target.nullable else schema

        return {
            "type": "object",
            "properties": {currency: amount(currency) for currency in settings.CURRENCIES},
            "additionalProperties": False,
        }


class CurrencyField(OpenApiSerializerFieldExtension):
    target_class = "common.fields.Currency"

    def map_serializer_field(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^({'|'.join(settings.CURRENCIES)})$"}


class IntegerField(OpenApiSerializerFieldExtension):
    target_class = "common.fields.Integer"

    def map_serializer_field(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.target.min_value, "maximum": self.target.max_value}


def leave_out_duplicates(endpoints: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Keep one path for each endpoint: /webhooks/payments is /webhooks/payments/fake."""
    return [endpoint for endpoint in endpoints if endpoint[0].rstrip("/") != "/webhooks/payments"]


def complete(result: dict[str, Any], generator: Any, **kwargs: Any) -> dict[str, Any]:
    """Add what all operations have: errors, the admin secret and examples; document paths without a trailing slash."""
    result["info"]["description"] = DESCRIPTION.strip()
    result["tags"] = [{"name": name, "description": text} for name, text in TAGS.items()]
    components = result["components"]
    components["schemas"]["Problem"] = PROBLEM
    components["responses"] = {
        f"Problem{status}": {
            "description": _with_codes(status, why),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, why in ANSWERS.items()
    }
    components["headers"] = {
        name: {"description": meaning, "schema": {"type": "string"}} for name, meaning in headers.MEANINGS.items()
    }
    for response in components["responses"].values():
        response["headers"] = OF_EVERY_ANSWER
    schemes = components.setdefault("securitySchemes", {})
    schemes[ADMIN_SECRET] = {"type": "apiKey", "in": "header", "name": "X-Admin-Secret"}
    result["paths"] = {path.rstrip("/") or "/": item for path, item in sorted(result["paths"].items())}
    for path, item in result["paths"].items():
        for method, operation in item.items():
            _complete_operation(path, method, operation)
            deprecation.describe(f"{method.upper()} {path}", operation, components)
    _name_enumerations(result)
    return result


def _with_codes(status: str, why: str) -> str:
    """A description of an answer, with the codes of problems that it may have."""
    codes = BY_STATUS.get(HTTPStatus(int(status)), {})
    return "\n".join([why, "", *(f"- `{code}`: {meaning}" for code, meaning in codes.items())]).strip()


def _name_enumerations(result: dict[str, Any]) -> None:
    """Let parameters refer to the enumerations that have a name, as the fields do."""
    schemas = result["components"]["schemas"]
    named = {frozenset(schema["enum"]): name for name, schema in schemas.items() if "enum" in schema}
    for item in result["paths"].values():
        for operation in item.values():
            for parameter in operation.get("parameters", ()):
                options = parameter["schema"].get("anyOf", ())
                for option in options:
                    if name := named.get(frozenset(option.get("enum", ()))):
                        option.clear()
                        option["$ref"] = f"#/components/schemas/{name}"


def _complete_operation(path: str, method: str, operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        response["description"] = response["description"] or HTTPStatus(int(status)).phrase
        response["headers"] = OF_EVERY_ANSWER
    for status in ANSWERS:
        if status in WITH_BODY and method == "get":
            continue
        operation["responses"].setdefault(status, {"$ref": f"#/components/responses/Problem{status}"})
    for scope in [scope for one in operation.get("security", ()) for scope in one.get(CLIENTS, ())]:
        operation["responses"]["403"]["description"] = f"The token does not allow this: it needs the scope `{scope}`."
    if path.startswith("/admin/"):
        operation["security"].append({ADMIN_SECRET: []})
    elif settings.API_AUTH == "open" and {} not in operation.setdefault("security", []):
        operation["security"].append({})
    for parameter in operation.get("parameters", ()):
        is_list = parameter["schema"].get("type") == "array"  # which may be empty as it is
        if parameter["in"] == "query" and operation["operationId"].startswith("list_") and not is_list:
            parameter["schema"] = {"anyOf": [parameter["schema"], {"const": ""}]}  # an empty value means no filter
    if "requestBody" in operation:
        operation["requestBody"]["required"] = operation["operationId"] not in MAY_BE_EMPTY
    examples = EXAMPLES.get(operation["operationId"])
    if examples:
        operation["requestBody"]["content"]["application/json"]["examples"] = examples
