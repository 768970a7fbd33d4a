"""The Russian translation: complete, compiled, and shown."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract_from_dir
from babel.messages.frontend import parse_mapping_cfg
from babel.messages.mofile import read_mo
from babel.messages.pofile import read_po
from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone, translation

from common.authority import Authority
from orders import services
from orders.models import Order
from orders_project.backoffice.people import OPERATOR_PERMISSIONS
from orders_project.tests.fill import admin_models, fill
from outbox.services import model_of
from payments import services as money
from processing import services as stock
from processing.messages import ProcessingRefused
from processing.models import Outgoing

PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%[sd]|{\w+}")
LOCALE = Path(settings.LOCALE_PATHS[0])
PO = LOCALE / "ru" / "LC_MESSAGES" / "django.po"
KEYWORDS = DEFAULT_KEYWORDS | {"_g": None, "gettext_noop": None}  # as in the Makefile


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    with PO.open("rb") as file:
        return read_po(file)


def texts(catalog: Catalog) -> dict[Any, Any]:
    """The translations of a catalog by their texts; the forms of a plural are tuples."""

    def plain(text: Any) -> Any:
        return text if isinstance(text, str) else tuple(text)

    return {plain(message.id): plain(message.string) for message in catalog if message.id}


def test_every_text_has_a_translation_and_none_is_left_over(catalog: Catalog) -> None:
    with (LOCALE / "babel.cfg").open() as file:
        methods, options = parse_mapping_cfg(file)
    packages = sorted({app.split(".")[0] for app in settings.INSTALLED_APPS})
    found = {
        text
        for package in [*packages, "common"]
        if (settings.BASE_DIR / package).is_dir()
        for _file, _line, text, _comments, _context in extract_from_dir(
            settings.BASE_DIR / package, methods, options, KEYWORDS
        )
    }
    assert len(found) > 300
    assert set(texts(catalog)) == found, "make translations"
    missing = [message.id for message in catalog if message.id and not _is_translated(message)]
    assert not missing, "fill in what is empty or marked as fuzzy"


def _is_translated(message: Any) -> bool:
    forms = message.string if isinstance(message.string, tuple) else (message.string,)
    return all(forms) and not message.fuzzy


def test_the_compiled_file_is_in_step(catalog: Catalog) -> None:
    with PO.with_suffix(".mo").open("rb") as file:
        assert texts(read_mo(file)) == texts(catalog), "make translations"


def test_plurals_are_inflected() -> None:
    with translation.override("ru"):
        words = [
            translation.ngettext("dead letter in %(service)s", "dead letters in %(service)s", n).split()[:2]
            for n in (1, 2, 5, 11, 21)
        ]
    one, few, many = (
        ["недоставленное", "сообщение"], ["недоставленных", "сообщения"], ["недоставленных", "сообщений"],
    )  # fmt: skip
    assert words == [one, few, many, many, one]


def test_placeholders_survive(catalog: Catalog) -> None:
    for text, forms in texts(catalog).items():
        for form in forms if isinstance(forms, tuple) else (forms,):
            original = text if isinstance(text, str) else text[0]
            assert sorted(PLACEHOLDER.findall(form)) == sorted(PLACEHOLDER.findall(original)), text


class Words(HTMLParser):
    """The texts of a page, and its links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.links: list[str] = []
        self._within: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [link for link in (given.get("href"),) if tag == "a" and link]
        self.texts += [text for name in ("title", "aria-label", "placeholder", "alt") if (text := given.get(name))]
        self.texts += [given["value"] or ""] if tag == "input" and given.get("type") == "submit" else []
        if tag in QUOTED:
            self._within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._within:
            self._within.remove(tag)

    def handle_data(self, data: str) -> None:
        if not self._within:
            self.texts.append(data.strip())


QUOTED = {"script", "style", "pre", "code"}  # messages and tracebacks are quoted
PHRASE = re.compile(r"\b[A-Za-z]{2,}(?:,? [A-Za-z]{2,}\b(?!_))+")  # English words in a row; one alone may be a code
BACK = re.compile(r"\?_changelist_filters=.*")  # where from: the page is the same without
FOREIGN = ("/admin/auth/",)  # pages with texts of other packages
NAMES = {
    "Idempotency-Key", "manage.py dlq show", "POST /orders", "The body is not JSON.",
}  # fmt: skip


@pytest.fixture
def boss() -> Client:
    client = Client(headers={"accept-language": "ru"})
    client.force_login(User.objects.create_superuser("начальник"))
    return client


@pytest.fixture
def ann() -> Any:
    account, _made = money.open_account(user_id="анна")
    money.deposit(user_id="анна", amount=5000_00, now=timezone.now(), reason="подарок", by=Authority("начальник"))
    return account


def place(amount: int = 500) -> Order:
    new = services.NewOrder(lines=(services.Line(quantity=1, price=amount),), user_id="анна")
    return services.place_order(new=new, now=timezone.now())[0]


def english(page: Words) -> list[str]:
    """The English texts of a page."""
    return [text for text in page.texts if PHRASE.search(text) and not any(name in text for name in NAMES)]


@pytest.mark.django_db
@pytest.mark.slow
def test_every_page_is_in_russian(boss: Client, ann: Any, post: Any) -> None:
    done, stuck = place(), place()
    post.passes_over = lambda envelope: envelope.subject == stuck.pk
    post.run()
    with transaction.atomic(using="processing"):
        Outgoing.post(ProcessingRefused(order_id=done.pk, reason="fraud"))
    post.passes_over = lambda envelope: envelope.subject != done.pk
    post.run()
    assert model_of("orders", "DeadLetter").objects.count() == 1
    for model in admin_models():
        fill(model, "данные")
    seen: dict[str, list[str]] = {}
    ahead = ["/admin/", "/admin/login/", f"/admin/orders/order/{stuck.pk}/change/"]
    while ahead:
        path = ahead.pop(0)
        kind = re.sub(r"/[^/]*(\d|%)[^/]*/", "/#/", re.sub(r"\?.*", "?", BACK.sub("", path)))
        if kind in seen or not path.startswith("/admin/") or "logout" in path or "jsi18n" in path:
            continue
        answer = boss.get(path)
        assert answer.status_code in (200, 302), path
        page = Words(answer.content.decode())
        seen[kind] = [] if path.startswith(FOREIGN) else english(page)
        ahead += [urldefrag(urljoin(path, link)).url for link in page.links]
    assert len(seen) > 90
    assert sorted({text for page in seen.values() for text in page}) == []


@pytest.mark.django_db
def test_permissions_are_in_russian(boss: Client) -> None:
    page = boss.get(reverse("admin:auth_group_add")).content.decode()
    with translation.override("ru"):
        assert all(f"может: {name}" in page for name in OPERATOR_PERMISSIONS.values())
    with translation.override("en"):
        assert not [name for name in OPERATOR_PERMISSIONS.values() if str(name) in page]


@pytest.mark.django_db
class TestRefusals:
    """Refusals are in the language of the page."""

    @staticmethod
    def refused(client: Client, row: Any, action: str, **fields: Any) -> str:
        name = f"admin:{row._meta.app_label}_{row._meta.model_name}_action"
        url = reverse(name, args=[row.pk, action])
        form = client.get(url).context["form"]
        values = {field: form[field].value() for field in form.fields} | fields
        answer = client.post(url, {field: value for field, value in values.items() if value is not None})
        assert answer.status_code == 422
        return str(answer.content.decode())

    def test_of_money(self, boss: Client) -> None:
        empty, _made = money.open_account(user_id="борис")
        assert "меньше этого" in self.refused(boss, empty, "correct", amount="-900", reason="ошибка")

    def test_of_stock(self, boss: Client) -> None:
        lamp = stock.make_product(name="Лампа", price=100, stock=2, actor="", now=timezone.now())
        assert "Не хватает товара" in self.refused(boss, lamp, "correct", quantity=-3, reason="разбили")

    def test_of_orders_and_approvals(self, boss: Client, ann: Any, post: Any) -> None:
        order = place(2000_00)
        post.passes_over = lambda envelope: envelope.type == "processing.process"
        post.run()
        order.refresh_from_db()
        url = reverse("admin:orders_order_action", args=[order.pk, "compensate"])
        form = boss.get(url).context["form"]
        boss.post(url, {field: form[field].value() or "обман" for field in form.fields})
        assert "уже ждёт второго" in self.refused(boss, order, "compensate", reason="ещё раз")
        (approval,) = admin_row("orders_project", "Approval")
        assert "Решать должен другой" in self.refused(boss, approval, "approve")
        assert "успел измениться" in self.refused(
            boss, order, "resolve", truth="order.processed", reason="x", version=1
        )


def admin_row(app: str, model: str) -> list[Any]:
    return list(apps.get_model(app, model)._base_manager.all())


@pytest.mark.django_db
class TestTheAPI:
    def test_is_in_english_for_everybody(self, client: Client, ann: Any, post: Any) -> None:
        order = place()
        post.run()
        calls: list[tuple[str, str, Any]] = [
            ("post", "/orders", {}),
            ("post", "/orders", {"user_id": "анна", "amount": "много"}),
            ("post", "/orders", {"customer_id": "c", "items": [{"sku": "нет", "quantity": 0}]}),
            ("get", "/orders/nowhere", None),
            ("get", "/orders?limit=-1", None),
            ("post", f"/orders/{order.pk}/cancel", None),
            ("get", "/accounts/nobody/balance", None),
            ("post", "/accounts/анна/deposit", {"amount": -1}),
            ("post", "/admin/products", {"name": ""}),
            ("get", "/nowhere", None),
        ]
        for method, path, body in calls:
            headers = {"x-correlation-id": "c", "x-admin-secret": "dev-admin-secret"}
            answers = [
                getattr(client, method)(path, body, "application/json", headers=headers | {"accept-language": language})
                for language in ("en", "ru")
            ]
            assert answers[0].status_code >= 400, path
            assert answers[0].content == answers[1].content, path
            assert not re.search("[а-я]", answers[1].json()["detail"].replace("анна", "")), path
            assert "Accept-Language" not in answers[1].get("Vary", "")

    def test_is_not_affected_by_the_language_of_the_back_office(self, boss: Client) -> None:
        boss.get(reverse("admin:index"))
        assert translation.get_language() == "ru"
        assert boss.post("/orders", {}, "application/json").json()["detail"] == "The request is not valid."
        assert translation.get_language() == "en"
