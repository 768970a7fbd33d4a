"""
What a new description takes away from an old one.

What we send may gain fields and may not lose any; what we take may gain optional fields and must take all that it took.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Any

Document = dict[str, Any]
METHODS = ("get", "put", "post", "delete", "patch")


# Values that an answer had not in an older release, by its field: whoever does not ask for what they belong to meets
# none of them, as an order of its own takes none of these ways by itself.
ASKED_FOR: dict[str, frozenset[str]] = {
    "status": frozenset({"authorized", "capturing"}),  # `capture: manual`, or the setting CAPTURE_AFTER_PROCESSING
    "payment_method": frozenset({"invoice"}),  # which the contract names the default of a customer_id alone
    "kind": frozenset({"dispute", "dispute_lost", "dispute_won", "fee", "refund_failed"}),  # of no customer's account
}


class Way(Enum):
    """Who writes what a schema describes."""

    SENT = "sent"  # we write it, others read it
    TAKEN = "taken"  # others write it, we read it
    BOTH = "both"  # a release writes it, the one before or after reads it


def openapi(old: Document, new: Document) -> list[str]:
    """Return what clients of the old description would miss in the new one, each as the field and what became of it."""
    return [*_paths(old, new)]


def asyncapi(old: Document, new: Document) -> list[str]:
    """Return what readers and writers of the old messages would miss in the new ones."""
    return [*_messages(old, new)]


def _paths(old: Document, new: Document) -> Iterator[str]:
    for path, item in old["paths"].items():
        for method in METHODS:
            if method not in item:
                continue
            where = f"{method.upper()} {path}"
            operation = new["paths"].get(path, {}).get(method)
            if operation is None:
                yield f"{where}: is gone"
            else:
                yield from _operation(item[method], operation, where=where, docs=(old, new))


def _operation(old: Document, new: Document, *, where: str, docs: tuple[Document, Document]) -> Iterator[str]:
    before, after = ({(p["in"], p["name"]): p for p in one.get("parameters", ())} for one in (old, new))
    for (place, name), parameter in before.items():
        at = f"{where} {place} {name}"
        if (place, name) not in after:
            yield f"{at}: is gone"
        else:
            schemas = parameter["schema"], after[place, name]["schema"]
            yield from _schema(*schemas, where=at, way=Way.TAKEN, docs=docs)
    for (place, name), parameter in after.items():
        if parameter.get("required") and not before.get((place, name), {}).get("required"):
            yield f"{where} {place} {name}: is required now"
    yield from _contents(
        old.get("requestBody"), new.get("requestBody"), where=f"{where} body", way=Way.TAKEN, docs=docs
    )
    for status, response in old["responses"].items():
        at = f"{where} {status}"
        if status not in new["responses"]:
            yield f"{at}: is gone"
        else:
            yield from _contents(response, new["responses"][status], where=at, way=Way.SENT, docs=docs)


def _contents(old: Any, new: Any, *, where: str, way: Way, docs: tuple[Document, Document]) -> Iterator[str]:
    old, new = _resolve(old or {}, docs[0]), _resolve(new or {}, docs[1])
    for form, content in old.get("content", {}).items():
        if form not in new.get("content", {}):
            yield f"{where}: is no longer {form}"
        elif "schema" in content:
            yield from _schema(content["schema"], new["content"][form]["schema"], where=where, way=way, docs=docs)


def _messages(old: Document, new: Document) -> Iterator[str]:
    messages = new["components"]["messages"]
    for name, message in old["components"]["messages"].items():
        if name not in messages:
            yield f"{name}: is gone"
            continue
        for part in ("headers", "payload"):
            if part in message:
                schemas = message[part], messages[name].get(part, {})
                yield from _schema(*schemas, where=f"{name} {part}", way=Way.BOTH, docs=(old, new))


def _schema(old: Any, new: Any, *, where: str, way: Way, docs: tuple[Document, Document]) -> Iterator[str]:
    old, new = _resolve(old, docs[0]), _resolve(new, docs[1])
    if lost := _narrowed(_types(old, docs[0]), _types(new, docs[1]), way=way):
        yield f"{where}: {lost}"
        return
    added = ASKED_FOR.get(where.rpartition(".")[2], frozenset()) if way is Way.SENT else frozenset()
    if lost := _narrowed(_values(old, docs[0]), _values(new, docs[1]) - added, way=way):
        yield f"{where}: {lost}"
    yield from _properties(old, new, where=where, way=way, docs=docs)
    before, after = (schema.get("items", {}) for schema in (old, new))
    if isinstance(before, list):
        for number, (item, other) in enumerate(zip(before, after, strict=True)):
            yield from _schema(item, other, where=f"{where}[{number}]", way=way, docs=docs)
    elif before:
        yield from _schema(before, after, where=f"{where}[]", way=way, docs=docs)


def _properties(old: Any, new: Any, *, where: str, way: Way, docs: tuple[Document, Document]) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    required = set(old.get("required", ())), set(new.get("required", ()))
    for name, schema in before.items():
        if name not in after:
            yield f"{where}.{name}: is gone"
            continue
        if way is not Way.TAKEN and name in required[0] - required[1]:
            yield f"{where}.{name}: may be missing now"
        yield from _schema(schema, after[name], where=f"{where}.{name}", way=way, docs=docs)
    if way is not Way.SENT:
        for name in sorted(required[1] - required[0]):
            yield f"{where}.{name}: is required now"


def _narrowed(old: set[str], new: set[str], *, way: Way) -> str:
    """What is wrong with these types or values after those; an empty set allows everything."""
    anything = {"anything"}
    if way is not Way.SENT and new and (gone := (old or anything) - new):
        return f"can't be {', '.join(sorted(gone))} any more"
    if way is Way.SENT and old and (more := (new or anything) - old):
        return f"can be {', '.join(sorted(more))} now"
    return ""


def _types(schema: Any, document: Document) -> set[str]:
    """The types that a schema allows; a number takes integers too."""
    found = schema.get("type", [])
    types = {found} if isinstance(found, str) else set(found)
    types |= {name for option in _options(schema, document) for name in _types(option, document)}
    return types | ({"integer"} if "number" in types else set())


def _values(schema: Any, document: Document) -> set[str]:
    """The values that a schema lists, itself or by its options; none if it or an option allows others."""
    if "enum" in schema or "const" in schema:
        return {str(value) for value in schema.get("enum", [schema.get("const")])}
    if schema.get("type") == "null":
        return {"null"}
    listed = [_values(option, document) for option in _options(schema, document)]
    return {value for values in listed for value in values} if all(listed) else set()


def _options(schema: Any, document: Document) -> list[Any]:
    return [_resolve(option, document) for part in ("oneOf", "anyOf") for option in schema.get(part, ())]


def _resolve(schema: Any, document: Document) -> Any:
    """What a reference points to; a schema and the parts of its `allOf` as one schema."""
    while "$ref" in schema:
        found: Any = document
        for name in schema["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        schema = found
    if "allOf" not in schema:
        return schema
    parts = [_resolve(part, document) for part in schema["allOf"]]
    parts.append({name: value for name, value in schema.items() if name != "allOf"})
    merged = {name: value for part in parts for name, value in part.items()}
    properties = {name: value for part in parts for name, value in part.get("properties", {}).items()}
    return merged | {"properties": properties, "required": [n for part in parts for n in part.get("required", ())]}
