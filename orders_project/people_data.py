"""
The data of a person in all services: exported as one JSON document, or erased. See docs/privacy.md.

Each service names its tables (see common/personal_data.py) and answers for them; here they are put together. To erase
takes two persons. It refuses while something about the person is open, and can be begun again after it was cut off.
"""

import json
import secrets
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.serializers.json import DjangoJSONEncoder
from django.db import transaction
from django.db.models import Model
from django.utils.translation import gettext as _g

from common.errors import Refusal
from common.personal_data import Person, Table, mentions, text
from orders import personal_data as of_orders
from orders.models import Order
from payments import personal_data as of_payments
from processing import personal_data as of_processing

from .models import Approval, BulkRow, BulkRun, Erasure, SavedFilter

BATCH = 200  # orders in one transaction
SHOWN = 10  # reasons that a refusal names

BACK_OFFICE = (
    Table(User, named=("email", "username"), hidden=("password",)),
    Table(Approval, {"reason": text, "call": mentions}, mentioned=("reason", "call")),
    Table(BulkRun, {"params": mentions, "values": mentions}, mentioned=("params", "values")),
    Table(BulkRow, {"said": text}, mentioned=("said",)),
    Table(Erasure, {"reason": text}, mentioned=("reason",), hidden=("names", "key")),
    Table(SavedFilter, {"name": text, "params": mentions}, mentioned=("name", "params")),
    Table(LogEntry, {"object_repr": text, "change_message": text}, mentioned=("object_repr", "change_message")),
)
# Orders come last: by them what the others have is found.
TABLES = (*of_processing.TABLES, *of_payments.TABLES, *BACK_OFFICE, *of_orders.TABLES)


class SeveralClients(Refusal):
    """Several clients have a person with this user id."""

    code = "several_clients"


class NothingKnown(Refusal):
    """There is no data about this person."""

    code = "nothing_known"


class StillOpen(Refusal):
    """Something about this person has to end first."""

    code = "still_open"


class SamePerson(Refusal):
    """The person who requested it cannot decide."""

    code = "second_person_needed"


class AlreadyDecided(Refusal):
    """It has been decided already."""

    code = "already_decided"


def person_called(names: Iterable[str], *, client: str | None = None) -> Person:
    """
    Return the person with these user ids, customer ids and emails.

    :raises NothingKnown: if there is no name
    :raises SeveralClients: if several clients have a person with this user id, and none of them is named
    """
    person = Person(tuple(dict.fromkeys(filter(None, (name.strip() for name in names)))), client)
    if not person.names:
        raise NothingKnown(_g("Give a user id or an email."))
    clients = of_orders.clients_of(person) | of_payments.clients_of(person)
    if client is None and len(clients) > 1:
        raise SeveralClients(
            _g("Several clients have a person with this user id. Name one of them: %(clients)s.")
            % {"clients": ", ".join(sorted(one or '""' for one in clients))}
        )
    return person


def other_names(person: Person) -> list[str]:
    """Return by which other names the orders of this person call somebody: perhaps the same person, perhaps not."""
    return sorted(one for one in of_orders.names_in(of_orders.orders_of(person)) if not person.is_called(one))


# Exporting -----------------------------------------------------------------------------------------------------------


def export(person: Person, *, now: datetime) -> Iterator[str]:
    """Yield a JSON document with all rows that are about this person, by table."""
    head = {"names": person.names, "client": person.client, "exported_at": now}
    yield json.dumps(head, cls=DjangoJSONEncoder)[:-1] + ', "data": {'
    order_ids = of_orders.orders_of(person)
    for number, model in enumerate(dict.fromkeys(table.model for table in TABLES)):
        yield f'{"," if number else ""}\n"{model._meta.label_lower}": ['
        for count, row in enumerate(_exported(model, person, order_ids)):
            yield f"{',' if count else ''}\n  " + json.dumps(row, cls=DjangoJSONEncoder, ensure_ascii=False)
        yield "]"
    yield "\n}}\n"


def _exported(model: type[Model], person: Person, order_ids: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a model once each, by whatever they are found."""
    seen = set()
    for table in (one for one in TABLES if one.model is model):
        for some in _in_batches(order_ids) if table.of_order else [()]:
            for row in table.export(table.rows(person, some)):
                pk = row[model._meta.pk.attname]
                if pk not in seen:
                    seen.add(pk)
                    yield row


def _in_batches(order_ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(order_ids), BATCH):
        yield order_ids[start : start + BATCH]


# Erasing -------------------------------------------------------------------------------------------------------------


def request(person: Person, *, reason: str, by: str, now: datetime) -> Erasure:
    """
    Have a second person asked to erase all data about this person; return the request.

    :raises NothingKnown: if there is none
    :raises StillOpen: while something about this person is open
    """
    order_ids = of_orders.orders_of(person)
    if not order_ids and not any(table.rows(person).exists() for table in TABLES if not table.of_order):
        raise NothingKnown(_g("There is no data about this person."))
    _refuse_while_open(person, order_ids)
    return Erasure.objects.create(
        names=list(person.names), client=person.client, key=secrets.token_bytes(32), reason=reason, asked_by=by,
        asked_at=now,
    )  # fmt: skip


@transaction.atomic(using="default")
def decide(erasure_id: Any, *, approve: bool, by: str, now: datetime) -> Erasure:
    """
    Approve that data is erased, or reject it. What is approved is done by `carry_out`.

    :raises SamePerson: if the person who requested it decides
    :raises AlreadyDecided: if somebody was faster
    """
    erasure = Erasure.objects.select_for_update().get(pk=erasure_id)
    if erasure.status != Erasure.Status.WAITING:
        raise AlreadyDecided(_g("This is already %(status)s.") % {"status": erasure.get_status_display()})
    if by == erasure.asked_by:
        raise SamePerson(_g("A second person has to decide, because you requested this."))
    erasure.decided_by, erasure.decided_at = by, now
    if approve:
        erasure.status = Erasure.Status.RUNNING
        erasure.save(update_fields=["status", "decided_by", "decided_at"])
    else:
        _forget(erasure, Erasure.Status.REJECTED, now=now)
    return erasure


def carry_out(erasure_id: Any, *, now: datetime) -> Erasure:
    """
    Erase what was approved, and forget whom it was about. Done already, it does nothing.

    Cut off at any point, it is to be called again: the pseudonyms stay the same until all is done.

    :raises StillOpen: while something about this person is open; what has ended is erased
    """
    erasure = Erasure.objects.get(pk=erasure_id)
    if erasure.status != Erasure.Status.RUNNING:
        return erasure
    person = _person_of(erasure)
    order_ids = of_orders.orders_of(person)
    _refuse_while_open(person, order_ids)
    for some in _in_batches(order_ids):
        _erase([table for table in TABLES if table.of_order], person, some, erasure)
    _erase([table for table in TABLES if not table.of_order], person, [], erasure)
    _forget(erasure, Erasure.Status.DONE, now=now)
    return erasure


def _person_of(erasure: Erasure) -> Person:
    return Person(tuple(erasure.names), erasure.client, bytes(erasure.key or b""))


def _erase(tables: list[Table], person: Person, order_ids: list[str], erasure: Erasure) -> None:
    """Erase some rows, in one transaction for each service, that of orders last: by orders the others are found."""
    known = person.also(of_orders.names_in(order_ids))
    for using in dict.fromkeys(table.database for table in tables):
        with transaction.atomic(using=using):
            if using == "orders":
                list(Order.objects.select_for_update().filter(pk__in=order_ids).order_by("pk").values_list("pk"))
            for table in tables:
                if table.database == using and table.columns:
                    label = table.model._meta.label_lower
                    changed = table.erase(table.rows(known, order_ids), known)
                    erasure.erased[label] = erasure.erased.get(label, 0) + changed
    erasure.save(update_fields=["erased"])


def _refuse_while_open(person: Person, order_ids: list[str]) -> None:
    found: list[str] = []
    for some in _in_batches(order_ids):
        found += of_orders.open_work(some) + of_processing.open_work(some) + of_payments.open_of_orders(some)
    found += of_payments.open_accounts(person)
    if found:
        more = _g(" and %(number)d more") % {"number": len(found) - SHOWN} if len(found) > SHOWN else ""
        raise StillOpen(_g("This has to end first: %(what)s.") % {"what": "; ".join(found[:SHOWN]) + more})


def _forget(erasure: Erasure, status: Erasure.Status, *, now: datetime) -> None:
    erasure.reason = _person_of(erasure).free(erasure.reason)
    erasure.status, erasure.names, erasure.key, erasure.client = status, [], None, None
    erasure.erased = {label: number for label, number in erasure.erased.items() if number}
    erasure.done_at = now
    erasure.save()
