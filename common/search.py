"""
Search for texts by what they begin with, or by any part of them, whatever their case.

Beginnings are found by indexes that need no extension of PostgreSQL, parts by an index of trigrams: see `PartIndex`.

# Note [Capitals]: Django asks for `iexact` and `istartswith` by comparing `UPPER(column)`, so the index has that. It
leaves empty texts out, and a query has to say that it does so as well: PostgreSQL concludes it from `=`, not from LIKE.

# Note [Where there are no trigrams]: they come with `pg_trgm`, which not every server has or allows. So their indexes
are in no migration: `manage.py migrate_all` makes them where it can, each time it runs, and a search asks whether its
own is there. Without it, and for a term without three alphanumeric characters in a row, texts are found by their
beginnings.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib.postgres.indexes import GinIndex, OpClass
from django.core.exceptions import ValidationError
from django.db import Error, connections
from django.db.models import BooleanField, Func, Index, Model, OrderBy, Q, QuerySet, TextField, Value
from django.db.models.functions import Collate, Upper
from django.db.models.indexes import IndexExpression
from django.db.models.lookups import Exact
from django.utils.translation import gettext_lazy as _

IndexExpression.register_wrappers(OrderBy, OpClass, Collate)  # as the app django.contrib.postgres would

MAX_WORDS = 8  # of a term that are looked for: each of them is compared with every row that no index rules out

PUNCTUATION = '-_./:,;()[]#+&*!?"'  # between words


def _is_empty(field: str) -> Q:
    return Q(Exact(Upper(field), Value("")))


def beginning_index(field: str, *, name: str, then: tuple[str, ...]) -> Index:
    """An index that finds a text by its beginning, or as a whole, in any case; then the other fields."""
    text: Any = OpClass(Upper(field), name="text_pattern_ops")
    return Index(text, *then, name=name, condition=~_is_empty(field))


def beginning(rows: QuerySet[Any], field: str, term: str) -> QuerySet[Any]:
    """The rows with a text that begins with a term, for a field with such an index."""
    return rows.filter(~_is_empty(field), **{f"{field}__istartswith": term})


def whole(field: str, term: str) -> Q:
    """The condition that a text is this term, in any case, for a field with such an index."""
    return Q(~_is_empty(field), **{f"{field}__iexact": term})


class Words(Func):
    """The words of several texts, in lower case, as an index for `has_words` has them."""

    arg_joiner = " || ' ' || "
    template = f"to_tsvector('simple', translate(%(expressions)s, '{PUNCTUATION}', '{' ' * len(PUNCTUATION)}'))"


def has_words(words: Words, term: str) -> Any:
    """
    The condition that each word of the term begins one of these words; None for a term without words.

    Of more than `MAX_WORDS` the first are looked for.
    """
    asked = re.split(rf"[\s\\'{re.escape(PUNCTUATION)}]+", term.replace("\0", " "))
    different = [*dict.fromkeys(filter(None, asked))]
    query = " & ".join(f"'{word}':*" for word in different[:MAX_WORDS])
    if not query:
        return None
    parsed = Func(Value("simple"), Value(query), function="to_tsquery")
    return Func(words, parsed, template="(%(expressions)s)", arg_joiner=" @@ ", output_field=BooleanField())


def distinct(words: Iterable[str]) -> list[str]:
    """
    Return these words, the longest first, without those that are a part of another one, in any case.

    If there are more than `MAX_WORDS`, one more than that is returned.
    """
    by_form = {word.lower(): word for word in words if word}
    found: list[str] = []
    for form in sorted(by_form, key=len, reverse=True):
        if len(found) <= MAX_WORDS and not any(form in longer for longer in found):
            found.append(form)
    return [by_form[form] for form in found]


# Parts ----------------------------------------------------------------------------------------------------------------

TRIGRAM = re.compile(r"[^\W_]{3}")
EXTENSION = "pg_trgm"
PENDING_KB = 256
IS_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"


class Texts(Func):
    """Several texts in capitals, one a line."""

    arg_joiner = " || E'\\n' || "
    template = "UPPER(%(expressions)s)"
    output_field = TextField()


@dataclass(frozen=True)
class PartIndex:
    """
    An index that finds any part of texts, if the server has one: see Note [Where there are no trigrams].

    A model names its own in `part_indexes`. `texts` are an expression such as `Texts`.
    """

    name: str
    texts: Any
    condition: Q | None = None

    def index(self) -> Index:
        """The index, as the model has it."""
        texts = OpClass(self.texts, name="gin_trgm_ops")
        # Note [Collected for some hundreds of rows]: each trigram of a row has a list, written anew for it. What is
        # collected is written a list at a time, at half the cost or less; but who fills the collection up writes it for
        # all, while placing an order. So it is small: 250 rows take 10 to 20 ms of CPU.
        return GinIndex(
            texts, name=self.name, condition=self.condition, fastupdate=True, gin_pending_list_limit=PENDING_KB
        )

    def helps(self, term: str, *, using: str) -> bool:
        """Whether the index is there, and can find this term."""
        return TRIGRAM.search(term) is not None and self.is_there(using)

    def may_have(self, term: str) -> Any:
        """The condition of `has_parts`, only for the words by which this index finds a row."""
        return has_parts(self.texts, " ".join(filter(TRIGRAM.search, term.split())))

    def is_there(self, using: str) -> bool:
        with connections[using].cursor() as cursor:
            cursor.execute(IS_VALID, [self.name])
            return bool(cursor.fetchone() == (True,))


def literal(text: str) -> str:
    """Return a pattern of LIKE, or a part of one, that this text alone matches."""
    return re.sub(r"([\\%_])", r"\\\1", text)


def check_words(term: str) -> None:
    """:raises ValidationError: if a term has more words than are looked for"""
    if len(distinct(term.split())) > MAX_WORDS:
        raise ValidationError(_("Search for at most %(most)d words."), "too_many_words", {"most": MAX_WORDS})


def has_parts(texts: Any, term: str) -> Any:
    """
    The condition that each word of the term is a part of these texts, an expression such as `Texts`.

    Of more than `MAX_WORDS` the longest are looked for.
    """
    found = Q()
    for word in distinct(term.split())[:MAX_WORDS]:
        pattern = Upper(Value(f"%{literal(word)}%"))
        found &= Q(Func(texts, pattern, template="(%(expressions)s)", arg_joiner=" LIKE ", output_field=BooleanField()))
    return found


def has_trigrams(using: str) -> bool:
    """Whether this database can have indexes of trigrams, after giving it the extension where that is allowed."""
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT FROM pg_extension WHERE extname = %s", [EXTENSION])
        if cursor.rowcount:
            return True
        cursor.execute("SELECT FROM pg_available_extensions WHERE name = %s", [EXTENSION])
        if not cursor.rowcount:
            return False
        try:
            cursor.execute(f"CREATE EXTENSION IF NOT EXISTS {EXTENSION}")
        except Error:  # its owner may not create one, or the provider of the server has not allowed this one
            return False
    return True


def part_indexes(model: type[Model]) -> tuple[PartIndex, ...]:
    """The indexes of a model that find parts of texts."""
    return getattr(model, "part_indexes", ())
