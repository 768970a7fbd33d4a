"""
No page of the back office reads a whole big table: neither a list, with any filter or search, nor the page of a row.

`ORDERS_AT_SCALE=1000000` sets the number of orders, and `ORDERS_SHOW_PLANS=1` prints the cost of each page.
"""

import functools
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

import pytest
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import User
from django.core.exceptions import FieldError, ValidationError
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from common.admin import Age, ReadOnlyAdmin, pages
from orders_project.backoffice import readings
from orders_project.observability.metrics import STORED
from orders_project.tests.fill import admin_models
from orders_project.tests.many_rows import gather

pytestmark = [pytest.mark.slow, pytest.mark.django_db, pytest.mark.timeout(3600)]

ORDERS = int(os.environ.get("ORDERS_AT_SCALE", "12000"))
MAX_ROWS_READ = 5_000  # by a query of a page, however many there are


@pytest.fixture
def boss(monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setattr(pages, "SCAN_ROWS", 1000)
    monkeypatch.setattr(pages, "NEAR_ROWS", 200)
    monkeypatch.setattr(ReadOnlyAdmin, "list_per_page", 2)  # it is the rows read that count, and not those shown
    client = Client()
    client.force_login(User.objects.create_superuser("boss"))
    return client


def addresses(client: Client, model: Any) -> Iterator[str]:
    """The URLs of a table's pages, with each filter and search."""
    page: Any = admin.site._registry[model]
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    where = reverse(f"{name}_changelist")
    changes: Any = client.get(where).context["cl"]
    queries = ["", changes.older_url]
    queries += [query for by in changes.filter_specs for query in telling_choices(by, changes, model)]
    rows = model._base_manager.order_by("pk")
    queries += [f"?o={sign}{column}" for column in sorted_columns(changes) for sign in ("", "-")]
    queries += ["?from=2020-01-01&to=2020-01-31"] * any(isinstance(by, Age) for by in changes.filter_specs)
    fields = page.get_search_fields(None)
    terms = ["nowhere", uuid4(), "e", "u1", "c1", "lamp", "s1", "example"]  # what nobody has, very many have, and some
    queries += [f"?q={term}" for term in terms if fields]
    for row in filter(None, (rows.first(), rows.last())):
        queries += [f"?q={getattr(row, model._meta.get_field(field).attname)}" for field in fields]
        yield reverse(f"{name}_change", args=[quote(row.pk)])
    yield from (where + query for query in dict.fromkeys(queries))


def sorted_columns(changes: Any) -> list[int]:
    """The columns by which one may sort a list."""
    return [number for number, column in enumerate(changes.list_display) if column in changes.sortable_by]


def telling_choices(by: Any, changes: Any, model: Any) -> Iterator[str]:
    """The choices of a filter that find rows, and one of those that find none: the database looks for all as for it."""
    find_nothing = 0
    for choice in list(by.choices(changes))[1:]:
        query = choice["query_string"]
        with suppress(FieldError, ValidationError, ValueError):  # filters that are more than a field and its value
            if not model._base_manager.filter(**dict(parse_qsl(query[1:]))).exists():
                find_nothing += 1
                if find_nothing > 1:
                    continue
        yield query


def rows_read(plan: dict[str, Any]) -> float:
    """How many rows of tables and indexes a query has read."""
    counters = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    is_scan = "Relation Name" in plan or "Index Name" in plan
    own = sum(plan.get(name, 0) for name in counters) * plan["Actual Loops"] if is_scan else 0
    return float(own) + sum(map(rows_read, plan.get("Plans", ())))


def steps(plan: dict[str, Any]) -> str:
    """The steps of a plan, outermost first."""
    own = " ".join(filter(None, (plan["Node Type"], plan.get("Index Name") or plan.get("Relation Name"))))
    return " < ".join([own, *map(steps, plan.get("Plans", []))])


def cost(client: Client, path: str) -> tuple[float, list[tuple[float, str, str]]]:
    """The milliseconds of a page; for each of its queries, the heaviest first, the rows read, the plan and the SQL."""
    for stored in (readings.DASHBOARD, STORED):
        stored._taken.clear()
    with ExitStack() as stack:
        watched = {
            service: stack.enter_context(CaptureQueriesContext(connections[service])) for service in settings.SERVICES
        }
        began = time.perf_counter()
        answer = client.get(path)
        spent = 1000 * (time.perf_counter() - began)
    assert answer.status_code == 200, path
    found = [
        explained(service, query["sql"])
        for service, queries in watched.items()
        for query in queries.captured_queries
        if query["sql"].lstrip().startswith(("SELECT", "WITH"))
    ]
    return spent, sorted(found, reverse=True)


@functools.cache
def explained(service: str, query: str) -> tuple[float, str, str]:
    """The rows that a query reads, its plan, and the query; many pages ask the same, and the rows stay as they are."""
    with connections[service].cursor() as cursor:
        cursor.execute("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) " + query)
        plan = cursor.fetchone()[0][0]["Plan"]
    return rows_read(plan), steps(plan), query


def test_no_page_reads_a_whole_big_table(boss: Client) -> None:
    gather(ORDERS)
    for service in settings.SERVICES:
        with connections[service].cursor() as cursor:  # now, as pages limit what a statement of their transaction takes
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    heavy = []
    of_an_unknown_customer = reverse("admin:orders_order_changelist") + "?q=gone"
    for path in (of_an_unknown_customer, *(path for model in admin_models() for path in addresses(boss, model))):
        spent, queries = cost(boss, path)
        if os.environ.get("ORDERS_SHOW_PLANS"):
            print(f"{spent:6.0f} ms {sum(rows for rows, _plan, _sql in queries):9.0f} rows  {path}  {queries[0][1]}")
        heavy += [f"{path}: {rows:.0f} rows, {plan}\n    {sql}" for rows, plan, sql in queries if rows > MAX_ROWS_READ]
    for path in (reverse("admin:index"), reverse("admin:dead_letters")):
        _spent, queries = cost(boss, path)
        heavy += [f"{path}: {plan}\n    {sql}" for rows, plan, sql in queries if rows > 2 * readings.MAX_ROWS]
    assert not heavy, "\n".join(heavy)
