"""
What the system promises to those who call it and listen to it: OpenAPI and AsyncAPI, recorded for every release.

`docs/openapi.yaml` and `docs/asyncapi.yaml` are written from the code, and so is a collection of requests for API
clients. `docs/contracts/VERSION` keeps the contracts of a release, which later code must not break.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from django.conf import settings

from orders_project import migration_rules

from . import asyncapi, collection, compare, openapi

DOCS = Path(settings.BASE_DIR) / "docs"
RELEASED = DOCS / "contracts"
DOCUMENTS = {
    "openapi.yaml": (openapi.document, compare.openapi),
    "asyncapi.yaml": (asyncapi.document, compare.asyncapi),
}
COLLECTION = "orders.postman_collection.json"


def text_of(document: dict[str, Any]) -> str:
    """Return a document as YAML, in the same words each time."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def write(*, release: bool) -> Iterator[Path]:
    """Write everything from the code, and yield the paths; `release` records the contracts and the last migrations."""
    everything = _texts()
    folders = [(DOCS, everything)]
    if release:
        contracts = {name: everything[name] for name in DOCUMENTS}
        folders.append((RELEASED / str(settings.SPECTACULAR_SETTINGS["VERSION"]), contracts))
    for folder, texts in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
            yield folder / name
    if release:
        path = folders[-1][0] / migration_rules.FILE
        path.write_text(migration_rules.last_migrations())
        yield path


def outdated() -> Iterator[str]:
    """Yield what of the written documents is not as the code is, or is no longer what was released as this version."""
    version = str(settings.SPECTACULAR_SETTINGS["VERSION"])
    for name, text in _texts().items():
        path, released = DOCS / name, RELEASED / version / name
        if not path.exists() or path.read_text() != text:
            yield f"docs/{name} is not what the code says: run manage.py contracts."
        if released.exists() and released.read_text() != text:
            yield f"docs/{name} is not what was released as {version}: count VERSION in the settings up."


def _texts() -> dict[str, str]:
    """What the code says, by the names of the files in which it is written."""
    documents = {name: document() for name, (document, _) in DOCUMENTS.items()}
    texts = {name: text_of(document) for name, document in documents.items()}
    return texts | {COLLECTION: collection.text_of(collection.document(documents["openapi.yaml"]))}


def broken() -> Iterator[str]:
    """Yield what the code breaks of what a released version promises, with the field."""
    for path in sorted(RELEASED.glob("*/*.yaml")):
        document, differences = DOCUMENTS[path.name]
        for difference in differences(yaml.safe_load(path.read_text()), document()):
            yield f"{path.parent.name}/{path.name}: {difference}"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and everything in full."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
