"""Strict JSON: exact numbers, no duplicate names, no text that the database cannot store."""

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import IO, Any, NoReturn

from django.conf import settings
from rest_framework import parsers
from rest_framework.exceptions import APIException, ParseError


class TooLarge(APIException):
    """The body is too large."""

    status_code = 413
    default_code = "too_large"
    default_detail = f"A body must not be larger than {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes."


class JSONParser(parsers.JSONParser):
    """The parser of every endpoint."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        body = stream.read(settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1)
        if len(body) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
            raise TooLarge
        try:
            return json.loads(
                body.decode(),
                parse_float=_exactly,
                parse_constant=_refuse_constant,
                object_pairs_hook=_object,
            )
        except RecursionError:
            raise ParseError("The JSON is nested too deeply.") from None
        except UnicodeDecodeError:
            raise ParseError("The body is not UTF-8.") from None
        except ValueError as error:
            raise ParseError(f"The body is not JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    for name, value in pairs:
        for text in (name, *(value if isinstance(value, list) else [value])):
            if isinstance(text, str):
                _check(text)
    return found


def _check(text: str) -> None:
    if "\0" in text:
        raise ValueError("a string contains a null character")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("a string contains half of a surrogate pair")


def _exactly(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError("a number is too large or too small") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
