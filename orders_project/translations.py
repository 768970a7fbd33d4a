"""
Translations without the gettext tools: what the code says, `.po` files read and written, `.mo` files compiled.

`manage.py translations` brings the catalogue in step with the code; what has no translation yet has an empty one.
"""

import ast
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.template import engines
from django.templatetags.i18n import BlockTranslateNode, TranslateNode

CALLS = {"_", "_g", "gettext", "gettext_lazy", "ngettext", "ngettext_lazy"}
PLURAL_FORMS = (
    "nplurals=4; plural=(n%10==1 && n%100!=11 ? 0 : n%10>=2 && n%10<=4 && (n%100<12 || n%100>14) ? 1 : n%10==0 || "
    "(n%10>=5 && n%10<=9) || (n%100>=11 && n%100<=14)? 2 : 3);"
)
HEADER = (
    "Content-Type: text/plain; charset=UTF-8\nContent-Transfer-Encoding: 8bit\nMIME-Version: 1.0\n"
    "Language: {language}\nPlural-Forms: " + PLURAL_FORMS + "\n"
)
FORMS = 4


@dataclass
class Entry:
    """A text with its translation, or with one for each form of the plural."""

    msgid: str
    plural: str = ""
    said: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return len(self.said) == (FORMS if self.plural else 1) and all(self.said)


Catalogue = dict[str, Entry]


# What the code says -------------------------------------------------------------------------------------------------


def spoken() -> Catalogue:
    """Every text that is marked for translation, apart from those that Django translates itself."""
    found: Catalogue = {}
    for app in settings.INSTALLED_APPS:
        folder = settings.BASE_DIR / app.split(".")[0]
        if not folder.is_dir():
            continue
        for msgid, plural in (*_in_python(folder), *_in_templates(folder)):
            entry = found.setdefault(msgid, Entry(msgid, plural))
            entry.plural = entry.plural or plural
    known = _djangos()
    return {msgid: entry for msgid, entry in sorted(found.items()) if msgid not in known}


def _in_python(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*.py")):
        if {"tests", "migrations"} & set(path.parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
                texts = [one.value for one in node.args[:2] if isinstance(one, ast.Constant) and type(one.value) is str]
                if texts:
                    yield str(texts[0]), str(texts[1]) if node.func.id.startswith("n") else ""


def _in_templates(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted((folder / "templates").rglob("*.html")):
        nodes: Any = engines["django"].from_string(path.read_text()).template.nodelist  # type: ignore[attr-defined]
        for node in nodes.get_nodes_by_type(TranslateNode):
            yield str(node.filter_expression.var.literal), ""
        for node in nodes.get_nodes_by_type(BlockTranslateNode):
            singular, _names = node.render_token_list(node.singular)
            yield singular, node.render_token_list(node.plural)[0] if node.plural else ""


def _djangos() -> set[str]:
    root = Path(django.__file__).parent
    folders = ("conf", "contrib/admin", "contrib/auth")
    return {msgid for one in folders for msgid in read(root / one / "locale" / "ru" / "LC_MESSAGES" / "django.po")}


# The files ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> Catalogue:
    """The catalogue in a `.po` file; entries with a context, of which we have none, are left out."""
    found: Catalogue = {}
    fields: dict[str, str] = {}
    key = ""
    for line in [*path.read_text().splitlines(), ""]:
        text = line.strip()
        if text.startswith(("msgctxt ", "msgid ", "msgid_plural ", "msgstr ", "msgstr[")):
            key, _space, text = text.partition(" ")
            fields[key] = ""
        if text.startswith('"'):
            fields[key] += ast.literal_eval(text)
        elif not text and fields:
            if "msgctxt" not in fields and fields.get("msgid"):
                said = [value for name, value in sorted(fields.items()) if name.startswith("msgstr")]
                found[fields["msgid"]] = Entry(fields["msgid"], fields.get("msgid_plural", ""), said)
            fields = {}
    return found


def write(path: Path, catalogue: Catalogue, *, language: str) -> None:
    """Write a `.po` file."""
    lines = ['msgid ""', 'msgstr ""', *(_quoted(f"{line}\n") for line in HEADER.format(language=language).splitlines())]
    for entry in catalogue.values():
        lines += ["", f"msgid {_quoted(entry.msgid)}"]
        if entry.plural:
            forms = (entry.said + [""] * FORMS)[:FORMS]
            lines.append(f"msgid_plural {_quoted(entry.plural)}")
            lines += [f"msgstr[{number}] {_quoted(form)}" for number, form in enumerate(forms)]
        else:
            lines.append(f"msgstr {_quoted(entry.said[0] if entry.said else '')}")
    path.write_text("\n".join(lines) + "\n")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def compiled(catalogue: Catalogue, *, language: str) -> bytes:
    """The `.mo` file of a catalogue: GNU's format, little-endian, without its optional hash table."""
    pairs = {b"": HEADER.format(language=language).encode()}
    for entry in catalogue.values():
        if entry.is_complete:
            msgid = f"{entry.msgid}\0{entry.plural}" if entry.plural else entry.msgid
            pairs[msgid.encode()] = "\0".join(entry.said).encode()
    keys = sorted(pairs)
    start = 7 * 4 + 16 * len(keys)
    ids, texts = b"", b""
    id_table, text_table = [], []
    for key in keys:
        id_table += [len(key), start + len(ids)]
        ids += key + b"\0"
    for key in keys:
        text_table += [len(pairs[key]), start + len(ids) + len(texts)]
        texts += pairs[key] + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(keys), 28, 28 + 8 * len(keys), 0, start)
    return head + struct.pack(f"<{4 * len(keys)}I", *id_table, *text_table) + ids + texts


def folder(language: str) -> Path:
    return Path(settings.LOCALE_PATHS[0]) / language / "LC_MESSAGES"


def bring_in_step(language: str) -> list[str]:
    """Write the catalogue of a language anew; the texts that still lack a translation."""
    path = folder(language) / "django.po"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = read(path) if path.exists() else {}
    catalogue = spoken()
    for msgid, entry in catalogue.items():
        entry.said = known[msgid].said if msgid in known else []
    write(path, catalogue, language=language)
    path.with_suffix(".mo").write_bytes(compiled(catalogue, language=language))
    return [msgid for msgid, entry in catalogue.items() if not entry.is_complete]
