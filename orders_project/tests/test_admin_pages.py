"""Every page of the back office, whatever is stored in the tables, and however much."""

from contextlib import ExitStack
from html.parser import HTMLParser
from typing import Any

import pytest
from django.conf import settings
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from common.admin import pages
from orders.models import Order
from orders_project.tests import efforts
from orders_project.tests.fill import admin_models, fill

pytestmark = pytest.mark.django_db

NAUGHTY = (
    "<script>xss()</script>",
    '"><script>xss()</script>',
    "'><img src=x onerror=xss()>",
    "<svg/onload=xss()>",
    "</textarea></title></style><iframe src=javascript:xss()>",
    "javascript:xss()",
    '" onmouseover="xss()" x="',
    "' autofocus onfocus='xss()' x='",
    '<a href="javascript:xss()">click</a>',
    '<!--<img src="--><img src=x onerror=xss()//">',
    "<style>@import'javascript:xss()';</style>",
    "<base href='javascript:xss()//'>",
    "<form action='javascript:xss()'><input type=submit>",
    "{{ request.user }}{% load static %}{{ 7|add:7 }}",
    "%s%n%(total)s{0}{x}",
    "&lt;script&gt;xss()&lt;/script&gt;&#60;script&#62;",
    "\u202e\u2066txet\u2069 ﷽ Z̷̨̛̙͖a̸l̴g̶o",
    "👩‍👩‍👧‍👦 🏳️‍🌈 ＜script＞ ‮",
    "'; DROP TABLE orders_order; --",
    "../../etc/passwd\\..\\",
    "line one\nline two\ttab",
    "<" * 300,
    "<xss-probe>",
    "<details open ontoggle=xss()>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=xss()>",
)
# Each holds all of them, as far as they fit into the field, and begins with another one: a page shows many at a time.
ROWS = tuple("".join(NAUGHTY[first:] + NAUGHTY[:first]) for first in range(0, len(NAUGHTY), 3))
# Some of them have their own page looked at: with each model others.
PLACE = {model: number for number, model in enumerate(admin_models())}


class Harm(HTMLParser):
    """Finds what a stored text must never become in a page: an element, an event handler, a URL that runs a script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in {"iframe", "xss-probe", "math", "base", "object"} or (tag == "script" and "src" not in given):
            self.found.append(f"<{tag}>")
        if tag == "style" or "style" in given:
            self.found.append(f"style at <{tag}>")
        for name, value in attrs:
            if name.startswith("on"):
                self.found.append(f"{name} at <{tag}>")
            if name in {"href", "src", "action", "formaction"} and (value or "").strip().lower().startswith("java"):
                self.found.append(f"{name}={value}")


def name_of(model: Any) -> str:
    return f"admin:{model._meta.app_label}_{model._meta.model_name}"


@pytest.mark.slow
@pytest.mark.parametrize("model", admin_models(), ids=lambda model: model._meta.label)
class TestStoredTexts:
    def test_stay_texts(self, boss: Client, model: Any) -> None:
        rows = [fill(model, text) for text in ROWS]
        urls = [reverse(f"{name_of(model)}_changelist")]
        urls += [
            reverse(f"{name_of(model)}_change", args=[_quoted(row.pk)]) for row in efforts.some(rows, PLACE[model])
        ]
        for page in urls:
            answer = boss.get(page)
            assert answer.status_code == 200, page
            assert Harm(answer.content.decode()).found == [], page


def _quoted(pk: Any) -> str:
    from django.contrib.admin.utils import quote

    return quote(pk)


def test_stored_texts_stay_texts_on_pages_over_all_services(boss: Client) -> None:
    for model in admin_models():
        if model._meta.model_name == "deadletter":
            for text in NAUGHTY:
                dead_letter: Any = fill(model, text)
                model._base_manager.filter(pk=dead_letter.pk).update(fingerprint=str(dead_letter.pk)[-16:])
    for name in ("admin:index", "admin:dead_letters"):
        answer = boss.get(reverse(name))
        assert Harm(answer.content.decode()).found == [], name
    assert len(boss.get(reverse("admin:dead_letters")).context["groups"]) == 3 * len(NAUGHTY)


def test_pages_of_actions_show_texts_as_texts(boss: Client) -> None:
    for text in ROWS:
        order: Any = fill(Order, text)
        Order.objects.filter(pk=order.pk).update(status="paid", currency="USD", payment_method="account")
        for action in ("retry", "compensate", "resolve"):
            answer = boss.get(reverse("admin:orders_order_action", args=[_quoted(order.pk), action]))
            assert answer.status_code == 200
            assert Harm(answer.content.decode()).found == []


class TestQueries:
    @staticmethod
    def _asked(client: Client, url: str) -> dict[str, list[str]]:
        aliases = ["default", *settings.SERVICES]
        with ExitStack() as stack:
            watched = {alias: stack.enter_context(CaptureQueriesContext(connections[alias])) for alias in aliases}
            assert client.get(url).status_code == 200
        return {alias: [query["sql"] for query in one.captured_queries] for alias, one in watched.items()}

    @pytest.mark.parametrize("model", admin_models(), ids=lambda model: model._meta.label)
    def test_of_a_list_are_flat_and_count_nothing(self, boss: Client, model: Any) -> None:
        url = reverse(f"{name_of(model)}_changelist")
        fill(model, "one")
        self._asked(boss, url)  # content types are remembered after the first time
        few = self._asked(boss, url)
        for number in range(5):
            fill(model, f"row {number}")
        many = self._asked(boss, url)
        assert [len(asked) for asked in few.values()] == [len(asked) for asked in many.values()]
        # Besides session, user and rows: permissions, saved filters, and whether the index of the search is there.
        assert sum(map(len, many.values())) <= 7
        assert not [sql for asked in many.values() for sql in asked if "COUNT(" in sql.upper()]

    def test_of_pages_are_found_by_key(self, boss: Client) -> None:
        for number in range(120):
            fill(Order, f"row {number}")
        url, seen = reverse("admin:orders_order_changelist"), []
        for _page in range(3):
            answer = boss.get(url)
            seen += [row.pk for row in answer.context["cl"].result_list]
            url = reverse("admin:orders_order_changelist") + answer.context["cl"].older_url
        assert len(seen) == len(set(seen)) == 120
        assert answer.context["cl"].older_url == ""
        back = boss.get(reverse("admin:orders_order_changelist") + answer.context["cl"].newer_url)
        assert [row.pk for row in back.context["cl"].result_list] == seen[50:100]
        asked = self._asked(boss, reverse("admin:orders_order_changelist") + answer.context["cl"].newer_url)
        assert not [sql for sql in asked["orders"] if "OFFSET" in sql]

    def test_scan_filters_search_some_rows_at_a_time(self, boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pages, "SCAN_ROWS", 10)
        oldest: Any = fill(Order, "rare")
        rows = [fill(Order, f"row {number}") for number in range(25)]
        Order.objects.filter(pk__in=[row.pk for row in rows]).update(payment_method="account")
        Order.objects.filter(pk=oldest.pk).update(payment_method="gateway")
        where = reverse("admin:orders_order_changelist")
        url, found = f"{where}?payment_method=gateway", []
        for _page in range(3):
            changes = boss.get(url).context["cl"]
            found.append([row.pk for row in changes.result_list])
            url = where + changes.older_url
        assert found == [[], [], [oldest.pk]]
        assert (changes.older_url, changes.rows_scanned) == ("", 0)
        assert boss.get(where + changes.newer_url).context["cl"].result_list == []

    def test_of_a_search_are_one_for_each_field(self, boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pages, "NEAR_ROWS", 1)
        for number in range(60):
            fill(Order, f"row {number}")
        Order.objects.update(customer_id="both")
        Order.objects.filter(user_id__endswith="7").update(user_id="both")
        answer = boss.get(reverse("admin:orders_order_changelist") + "?q=both")
        newest = Order.objects.order_by("-created_at", "-order_id").values_list("pk", flat=True)[:50]
        assert [row.pk for row in answer.context["cl"].result_list] == list(newest)
        asked = self._asked(boss, reverse("admin:orders_order_changelist") + "?q=both")["orders"]
        assert 10 <= len(asked) < 16  # five fields as a whole, parts and SKUs, and what comes first
        assert sum(" OR " in sql for sql in asked) == 1  # which looks at the next rows only

    def test_of_the_dashboard_are_few(self, boss: Client) -> None:
        for _number in range(10):
            fill(Order, "x")
        asked = self._asked(boss, reverse("admin:index"))
        assert sum(map(len, asked.values())) < 90


@pytest.fixture(autouse=True)
def fresh_readings() -> None:
    """The dashboard keeps its numbers for some seconds; each test must see new ones."""
    from orders_project.backoffice.readings import DASHBOARD
    from orders_project.observability.metrics import STORED

    DASHBOARD._taken.clear()
    STORED._taken.clear()
