"""
Search for texts that begin with a term, whatever their case, by indexes that need no extension of PostgreSQL.

# Note [Capitals]: Django asks for `iexact` and `istartswith` by comparing `UPPER(column)`, so the index has that. It
leaves empty texts out, and a query has to say that it does so as well: PostgreSQL concludes it from `=`, not from LIKE.
"""

import re
from typing import Any

from django.contrib.postgres.indexes import OpClass
from django.db.models import BooleanField, F, Func, Index, OrderBy, Q, QuerySet, Value
from django.db.models.functions import Collate, Upper
from django.db.models.indexes import IndexExpression
from django.db.models.lookups import Exact

IndexExpression.register_wrappers(OrderBy, OpClass, Collate)  # as the app django.contrib.postgres would

PUNCTUATION = '-_./:,;()[]#+&*!?"'  # between words


def _is_empty(field: str) -> Q:
    return Q(Exact(Upper(field), Value("")))


def beginning_index(field: str, *, name: str, then: tuple[str, ...]) -> Index:
    """An index that finds a text by its beginning, or as a whole, in any case; then the other fields, descending."""
    text: Any = OpClass(Upper(field), name="text_pattern_ops")
    return Index(text, *(F(other).desc() for other in then), name=name, condition=~_is_empty(field))


def beginning(rows: QuerySet[Any], field: str, term: str) -> QuerySet[Any]:
    """The rows with a text that begins with a term, for a field with such an index."""
    return rows.filter(**{f"{field}__istartswith": term}).exclude(_is_empty(field))


class Words(Func):
    """The words of several texts, in lower case, as an index for `has_words` has them."""

    arg_joiner = " || ' ' || "
    template = f"to_tsvector('simple', translate(%(expressions)s, '{PUNCTUATION}', '{' ' * len(PUNCTUATION)}'))"


def has_words(words: Words, term: str) -> Any:
    """The condition that each word of the term begins one of these words; None for a term without words."""
    asked = re.split(rf"[\s\\'{re.escape(PUNCTUATION)}]+", term.replace("\0", " "))
    query = " & ".join(f"'{word}':*" for word in asked if word)
    if not query:
        return None
    parsed = Func(Value("simple"), Value(query), function="to_tsquery")
    return Func(words, parsed, template="(%(expressions)s)", arg_joiner=" @@ ", output_field=BooleanField())
