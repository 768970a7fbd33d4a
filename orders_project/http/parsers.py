"""Strict JSON with exact numbers."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import IO, Any

from django.conf import settings
from rest_framework import parsers
from rest_framework.exceptions import APIException, ParseError

from outbox import strict_json


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
            return strict_json.loads(body.decode(), number=_exactly)
        except strict_json.TooDeep as error:
            raise ParseError(f"The JSON cannot be read: {error}.") from None
        except UnicodeDecodeError:
            raise ParseError("The body is not UTF-8.") from None
        except ValueError as error:
            raise ParseError(f"The body is not JSON: {error}") from None


def _exactly(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError("a number is too large or too small") from None
