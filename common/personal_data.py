"""
The data of a person: which columns hold it, how it is found, and what is left of it when it is erased.

Each service names its own tables as `Table`s. Names are replaced by pseudonyms, other personal data is emptied, and
what the books need stays. See docs/privacy.md.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self
from urllib.parse import quote, quote_plus, unquote_plus

from django.db import router
from django.db.models import Model, Q, QuerySet, TextField
from django.db.models.functions import Cast

from outbox import strict_json
from outbox.models import DeadLetter, DeadLetterAction

PSEUDONYM = re.compile(r"erased-[0-9a-f]{16}(@erased\.invalid)?")
LONG = 5  # characters of a name that is replaced within a text too; shorter ones only where nothing else stands
BATCH = 500
WORD = re.compile(r"[\w.~%+@-]+")  # as a name may be encoded in the query of a URL

NAMES = frozenset({"user_id", "customer_id", "user_email", "customer_email", "receipt_email", "email", "payer_email"})
OTHERS = frozenset(
    {
        "description", "metadata", "client_secret", "next_action", "phone", "address", "billing_details", "shipping",
        "customer_details", "payer",
        "origin",  # has a digest of a request, with which one that repeats a guess could be told
    }
)  # fmt: skip


@dataclass(frozen=True)
class Person:
    """
    Whom the data is about: user ids, customer ids and emails. An email is compared without regard to case.

    User ids belong to a client of the API: with `client` only those of that client are meant.
    """

    names: tuple[str, ...]
    client: str | None = None
    key: bytes = field(default=b"", repr=False)  # makes the pseudonyms; nobody can without it

    def also(self, names: Iterable[str]) -> Self:
        """Return the same person with further names."""
        return replace(self, names=tuple(dict.fromkeys([*self.names, *filter(None, names)])))

    def spellings(self) -> tuple[str, ...]:
        """Return the names as texts have them: as they are, and encoded as in URLs."""
        encodings: tuple[Callable[[str], str], ...] = (str, quote_plus, partial(quote, safe="@"))
        return tuple(dict.fromkeys(encode(name) for name in self.names for encode in encodings))

    def in_columns(self, *columns: str) -> Q:
        """Return the condition that one of these columns holds a name."""
        found = Q(pk__in=[])
        for column in columns:
            for name in self.names:
                # In any case first, as some indexes have it; only of an email that is enough.
                found |= Q(**{f"{column}__iexact": name} | ({} if "@" in name else {column: name}))
        return found

    def is_called(self, text: str) -> bool:
        return any(text == name or ("@" in name and text.lower() == name.lower()) for name in self.names)

    def pseudonym(self, name: str) -> str:
        """Return what stands for a name from now on: the same for the same name, in whatever case an email is."""
        if not name or PSEUDONYM.fullmatch(name):
            return name
        digest = hmac.new(self.key, (name.lower() if "@" in name else name).encode(), hashlib.sha256).hexdigest()[:16]
        return f"erased-{digest}@erased.invalid" if "@" in name else f"erased-{digest}"

    def free(self, text: str) -> str:
        """Return a text in which pseudonyms stand for the names, also where it has them encoded as in URLs."""
        text = self._free(text)
        return WORD.sub(self._free_encoded, text) if "%" in text or "+" in text else text

    def _free_encoded(self, word: re.Match[str]) -> str:
        """Return a word without the names in what it encodes, if it encodes something."""
        decoded = unquote_plus(word[0])
        freed = self._free(decoded) if decoded != word[0] else decoded
        return word[0] if freed == decoded else quote_plus(freed)

    def _free(self, text: str) -> str:
        if self.is_called(text):
            return self.pseudonym(text)
        for name in self.names:
            if len(name) >= LONG:
                flags = re.IGNORECASE if "@" in name else 0
                text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", self.pseudonym(name), text, flags=flags)
        return text


Treatment = Callable[[Any, Person], Any]


def name(value: Any, person: Person) -> Any:
    return person.pseudonym(value)


def empty(value: Any, person: Person) -> Any:
    """Return nothing, in the type of the value."""
    return type(value)() if isinstance(value, str | dict | list) else None


def text(value: Any, person: Person) -> Any:
    return person.free(value)


def remark(value: Any, person: Person) -> Any:
    """Return a remark, or nothing if it names the person."""
    return value if person.free(value) == value else ""


def data(value: Any, person: Person) -> Any:
    """Return a JSON value of which all is about this person, without personal data."""
    return _in_json(value, person, {**dict.fromkeys(OTHERS, empty), **dict.fromkeys(NAMES, _name_or_data)})


def _name_or_data(value: Any, person: Person) -> Any:
    return name(value, person) if isinstance(value, str) else data(value, person)


def mentions(value: Any, person: Person) -> Any:
    """Return a JSON value that names this person among others, with pseudonyms for the names."""
    return _in_json(value, person, {})


def _in_json(value: Any, person: Person, members: Mapping[str, Treatment]) -> Any:
    """Return a JSON value with pseudonyms for the names in its texts; members of these names are treated so."""
    match value:
        case dict():
            return {
                key: members[key](one, person) if key in members else _in_json(one, person, members)
                for key, one in value.items()
            }
        case list():
            return [_in_json(one, person, members) for one in value]
        case str():
            return person.free(value)
    return value


def encoded(treatment: Treatment) -> Treatment:
    """Return the treatment of a text or of bytes that should be JSON; if they are not, they are a text."""

    def treat(value: Any, person: Person) -> Any:
        if isinstance(value, bytes | memoryview):
            return treat(bytes(value).decode(errors="replace"), person).encode()
        try:
            found = strict_json.parse(value)
        except ValueError:  # also of JSON that is nested too deeply
            return person.free(value)
        treated = treatment(found, person)
        return value if treated == found else json.dumps(treated, ensure_ascii=False, separators=(",", ":"))

    return treat


@dataclass(frozen=True)
class Table:
    """
    A table with personal data: how the rows of a person are found, and how each column is treated.

    Rows belong to an order (`of_order` leads to its id), have a name in one of `named`, or mention it in one of
    `mentioned`; only rows that are `among` these are looked through. `hidden` columns are secrets, which are not
    exported.
    """

    model: type[Model]
    columns: Mapping[str, Treatment] = field(default_factory=dict)
    of_order: str = ""
    named: tuple[str, ...] = ()
    mentioned: tuple[str, ...] = ()
    client: str = ""
    hidden: tuple[str, ...] = ()
    among: Q = field(default_factory=Q)

    @property
    def database(self) -> str:
        return router.db_for_write(self.model)

    def rows(self, person: Person, order_ids: Iterable[str] = ()) -> QuerySet[Any]:
        """Return the rows of this person or, in a table of orders, of these orders."""
        rows = self.model._base_manager.order_by("pk")
        if self.of_order:
            return rows.filter(**{f"{self.of_order}__in": list(order_ids)})
        found = person.in_columns(*self.named)
        for column in self.mentioned:
            rows = rows.annotate(**{f"{column}_text": Cast(column, TextField())})
            for one in person.spellings():
                found |= Q(**{f"{column}_text__icontains": one})
        rows = rows.filter(self.among, found)
        if self.client and person.client is not None:
            rows = rows.filter(**{self.client: person.client})
        return rows

    def export(self, rows: QuerySet[Any]) -> Iterator[dict[str, Any]]:
        """Yield the rows as values of JSON."""
        names = [column.attname for column in self.model._meta.concrete_fields if column.name not in self.hidden]
        for row in rows.values(*names).iterator(chunk_size=BATCH):
            yield {key: _readable(value) for key, value in row.items()}

    def erase(self, rows: QuerySet[Any], person: Person) -> int:
        """Erase what these rows contain about the person, in the transaction of the caller; return how many changed."""
        changed = 0
        batch: list[Any] = []
        for row in rows.only("pk", *self.columns).iterator(chunk_size=BATCH):
            treated = {column: self._treat(row, column, person) for column in self.columns}
            if any(getattr(row, column) != value for column, value in treated.items()):
                for column, value in treated.items():
                    setattr(row, column, value)
                batch.append(row)
            if len(batch) == BATCH:
                changed += self._store(batch)
                batch = []
        return changed + self._store(batch)

    def _treat(self, row: Any, column: str, person: Person) -> Any:
        value = getattr(row, column)
        return value if value is None else self.columns[column](value, person)

    def _store(self, batch: list[Any]) -> int:
        return self.model._base_manager.using(self.database).bulk_update(batch, list(self.columns)) if batch else 0


def _readable(value: Any) -> Any:
    return bytes(value).decode(errors="replace") if isinstance(value, bytes | memoryview) else value


@dataclass(frozen=True)
class ActionsOnDeadLetters(Table):
    """What operators did with the dead letters of a service about an order, and what they corrected in them."""

    of_order: str = "dead_letter"
    dead_letters: type[Model] = DeadLetter

    @property
    def database(self) -> str:
        return router.db_for_write(self.dead_letters)

    def rows(self, person: Person, order_ids: Iterable[str] = ()) -> QuerySet[Any]:
        dead = self.dead_letters._base_manager.filter(subject__in=list(order_ids))
        return DeadLetterAction.objects.using(self.database).filter(dead_letter_id__in=dead.values("pk")).order_by("pk")


def action(detail: Any, person: Person) -> Any:
    """Return what is told of an action, without the reason and the corrections if they name the person."""
    told = dict(detail)
    if "why" in told:
        told["why"] = remark(told["why"], person)
    if "changes" in told and (
        mentions(told["changes"], person) != told["changes"]
        or any(one in json.dumps(told["changes"]) for one in OTHERS)
    ):
        told["changes"] = []
    return told


def messages(outgoing: type[Model], dead_letter: type[Model]) -> tuple[Table, ...]:
    """Return the tables of messages that every service has."""
    return (
        Table(outgoing, {"data": data, "last_error": text}, of_order="subject"),
        ActionsOnDeadLetters(DeadLetterAction, {"detail": action}, dead_letters=dead_letter),
        Table(
            dead_letter,
            {"headers": data, "error": text, "traceback": text, "body": encoded(data)},
            of_order="subject",
        ),
    )
