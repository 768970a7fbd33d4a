"""The catalogue of codes: every code that the services can produce has a sentence in it, and no sentence is unused."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings
from django.utils import translation

from common import reasons
from common.authority import NeedsSecondPerson
from orders import saga
from payments.accounts import CurrencyMismatch, NoAccount
from payments.ledger import InsufficientFunds

ROOT = Path(settings.BASE_DIR)
SERVICES = ("orders", "payments", "processing", "outbox")
RAISED = {"GatewayRefused", "Unreadable", "NotKnownYet", "Undeliverable"}  # their first argument is a code
NAMED = {"reason", "fail_reason", "refusal"}  # arguments and fields that hold a code
# Texts in fields of these names that are no codes: what people read in the movements of stock, and of an endpoint.
TEXTS = {"gone"}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for service in SERVICES:
        for path in (ROOT / service).rglob("*.py"):
            if not {"tests", "migrations", "management", "protos", "admin", "admin.py"} & set(path.parts):
                yield path, ast.parse(path.read_text())


def _text(node: ast.AST | None) -> list[str]:
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.BoolOp(values=values):
            return [text for value in values for text in _text(value)]
        case ast.IfExp(body=body, orelse=other):
            return _text(body) + _text(other)
    return []


def codes(tree: ast.Module) -> Iterator[str]:
    """The constants that stand where a code does: in an error, in a field or argument of a reason, beside a status."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name), args=[first, *_others]) if name in RAISED:
                yield from _text(first)
            case ast.keyword(arg=str(name), value=value) if name in NAMED:
                yield from _text(value)
            case ast.Assign(targets=[ast.Name(id=name) | ast.Attribute(attr=name)], value=value) if name in NAMED:
                yield from _text(value)
            case ast.Tuple(elts=[ast.Attribute(value=ast.Name(id="Status")), second]):
                yield from _text(second)
            case ast.FunctionDef(name="why_not" | "_why_not" | "difference" | "_cause"):
                for inner in ast.walk(node):
                    match inner:
                        case ast.Return(value=ast.Tuple(elts=[first, *_others])):
                            yield from _text(first)
                        case ast.Return(value=returned):
                            yield from _text(returned)


def produced() -> set[str]:
    found = {code for _path, tree in sources() for code in codes(tree)}
    found = {code for code in found if re.fullmatch(r"[a-z]+(_[a-z]+)*", code)} - TEXTS
    found |= saga.FAILURES | {code for event in saga.REFUSED.values() for code in event.values()}
    found |= {error.code for error in (NoAccount, CurrencyMismatch, InsufficientFunds)}
    # A person's request is refused at once and makes no dead letter.
    return found - {*saga.REFUSED[saga.CancelRequested].values(), *saga.REFUSED[saga.CaptureRequested].values()}


def test_every_reason_that_is_produced_has_a_sentence() -> None:
    known = reasons.REASONS.keys() | reasons.OF_GATEWAYS.keys()
    assert produced() - known == set()


def test_no_sentence_is_for_a_reason_that_nothing_produces() -> None:
    constants = {
        node.value
        for _path, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    made_of_a_name = {f"{name}_mismatch" for name in ("order", "payment", "currency", "reference")}
    assert reasons.REASONS.keys() - constants - made_of_a_name - {NeedsSecondPerson.code} == set()
    assert not reasons.REASONS.keys() & reasons.OF_GATEWAYS.keys()


@pytest.mark.parametrize("label", reasons.STATUSES)
def test_every_status_has_a_sentence_and_no_other(label: str) -> None:
    model = apps.get_model(label)
    field = "verdict" if label == "processing.processing" else "status"
    assert {value for value, _label in model._meta.get_field(field).choices} == reasons.STATUSES[label].keys()


def test_a_code_is_shown_with_its_sentence_in_the_language_of_the_reader_and_an_unknown_one_as_it_is() -> None:
    assert reasons.explained("card_declined") == "card_declined: The bank has declined the card."
    assert (reasons.explained("never_heard"), reasons.in_words(""), reasons.explained("")) == ("never_heard", "", "")
    assert reasons.of_status("orders.order", "nothing") == ""
    with translation.override("ru"):
        assert reasons.in_words("card_declined") != "card_declined"
