"""Extracts the texts of Django templates for Babel, which `make translations` runs."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

from babel.messages.extract import extract_javascript
from django.utils.translation.template import templatize


def extract_django(fileobj: Any, keywords: Any, comment_tags: Any, options: Any) -> Iterator[Any]:
    """
    The texts of a template, in the form in which Babel expects them from an extractor.

    Django turns the tags of a template into calls of gettext with blanks between them. Babel's lexer for JavaScript
    finds these calls; the one for Python would stumble over the indentation.
    """
    calls = templatize(fileobj.read().decode())
    yield from extract_javascript(BytesIO(calls.encode()), keywords, comment_tags, options)
