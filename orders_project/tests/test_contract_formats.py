"""The written descriptions hold against the standards that they name, and what is made from them works."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from django.test import Client
from openapi_spec_validator import OpenAPIV31SpecValidator

from orders.webhook_endpoints import KINDS
from orders_project.contracts import DOCS, collection, openapi

VENDOR = Path(__file__).parent / "vendor"


def test_the_api_is_described_in_openapi() -> None:
    document = yaml.safe_load((DOCS / "openapi.yaml").read_text())
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_the_messages_are_described_in_asyncapi() -> None:
    document = yaml.safe_load((DOCS / "asyncapi.yaml").read_text())
    schema = json.loads((VENDOR / f"asyncapi-{document['asyncapi']}.json").read_text())
    assert [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(document)] == []


class TestTheDocumentForGenerators:
    def test_every_operation_has_a_name_a_group_and_problems(self) -> None:
        api = openapi.document()
        operations = [operation for item in api["paths"].values() for operation in item.values()]
        names = [operation["operationId"] for operation in operations]
        assert len(names) == len(set(names))
        assert {tag for operation in operations for tag in operation["tags"]} == {tag["name"] for tag in api["tags"]}
        for operation in operations:
            for status in ("400", "401", "403", "404", "500", "503"):
                answer = operation["responses"][status]
                assert answer["$ref"] == f"#/components/responses/Problem{status}"
                assert answer.keys() == {"$ref"} or status == "403"
            for scope in (scope for one in operation.get("security", ()) for scope in one.get("clients", ())):
                assert f"`{scope}`" in operation["responses"]["403"]["description"]

    def test_an_enumeration_has_one_name(self) -> None:
        api = openapi.document()
        named = [tuple(schema["enum"]) for schema in api["components"]["schemas"].values() if "enum" in schema]
        assert len(named) == len(set(named))
        (status,) = (each for each in api["paths"]["/orders"]["get"]["parameters"] if each["name"] == "status")
        assert status["schema"]["anyOf"][0] == {"$ref": "#/components/schemas/OrderStatus"}


def test_the_event_types_are_told_with_valid_examples() -> None:
    answer = Client().get("/event-types")
    assert answer.status_code == 200
    listed = answer.json()["results"]
    assert [each["type"] for each in listed] == list(KINDS)
    for each in listed:
        assert each["description"]
        assert "$ref" not in json.dumps(each["schema"])
        check = jsonschema.Draft202012Validator(each["schema"])
        check.validate(each["example"])
        assert not check.is_valid({**each["example"], "type": "order.never"})
        assert not check.is_valid({**each["example"], "data": {}})


# What Postman and those who read its collections need, in the words of its format.
VARIABLE = {"type": "object", "required": ["key", "value"]}
REQUEST = {
    "type": "object",
    "required": ["method", "header", "url"],
    "properties": {
        "header": {"type": "array", "items": VARIABLE},
        "url": {"type": "object", "required": ["raw", "host", "path"]},
        "body": {"type": "object", "required": ["mode"]},
    },
}
ITEM = {"type": "object", "required": ["name", "request"], "properties": {"request": REQUEST}}
FOLDER = {"type": "object", "required": ["name", "item"], "properties": {"item": {"type": "array", "items": ITEM}}}
POSTMAN = {
    "type": "object",
    "required": ["info", "item"],
    "properties": {
        "info": {
            "type": "object",
            "required": ["name", "schema"],
            "properties": {"schema": {"pattern": "/v2.1.0/collection.json$"}},
        },
        "item": {"type": "array", "items": {"oneOf": [ITEM, FOLDER]}},
        "variable": {"type": "array", "items": VARIABLE},
    },
}


class TestTheCollection:
    def test_has_the_form_that_clients_import(self) -> None:
        written: dict[str, Any] = json.loads((DOCS / "orders.postman_collection.json").read_text())
        jsonschema.Draft7Validator(POSTMAN).validate(written)

    def test_has_every_operation_of_a_client(self) -> None:
        made = [
            (
                item["request"]["method"],
                "/" + "/".join(item["request"]["url"]["path"]).replace("{{", "{").replace("}}", "}"),
            )
            for folder in collection.document(openapi.document())["item"]
            for item in folder.get("item", ())
        ]
        api = openapi.document()
        described = {
            (method.upper(), path)
            for path, item in api["paths"].items()
            for method, operation in item.items()
            if operation["tags"] != ["webhooks"]
        }
        assert set(made) == described

    def test_needs_no_variable_that_it_does_not_have(self) -> None:
        made = collection.document(openapi.document())
        used = set(re.findall(r"\{\{(\w+)\}\}", json.dumps(made)))
        assert used <= {variable["key"] for variable in made["variable"]}
