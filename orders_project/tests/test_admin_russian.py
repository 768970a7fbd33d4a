"""The Russian translation: complete, compiled, and shown."""

import gettext
import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import translation

from orders_project import translations

HOLE = re.compile(r"%\(\w+\)[sd]|%[sd]|{\w+}")
PO = translations.folder("ru") / "django.po"


def test_every_text_has_a_translation() -> None:
    known = translations.read(PO)
    spoken = translations.spoken()
    assert len(spoken) > 300
    lacking = [msgid for msgid in spoken if msgid not in known or not known[msgid].is_complete]
    assert not lacking, "make translations, and fill in what is empty"
    assert not set(known) - set(spoken), "make translations: these are said no more"


def test_the_compiled_file_is_in_step() -> None:
    assert PO.with_suffix(".mo").read_bytes() == translations.compiled(translations.read(PO), language="ru")


def test_the_compiled_file_is_what_gettext_reads() -> None:
    with PO.with_suffix(".mo").open("rb") as file:
        catalogue = gettext.GNUTranslations(file)
    assert catalogue.gettext("Why is it stuck?") == "Почему он застрял?"
    forms = [catalogue.ngettext("letter in %(room)s", "letters in %(room)s", n).split()[0] for n in (1, 2, 5, 11, 21)]
    assert forms == ["письмо", "письма", "писем", "писем", "письмо"]


def test_placeholders_survive() -> None:
    for msgid, entry in translations.read(PO).items():
        for said in entry.said:
            assert sorted(HOLE.findall(said)) == sorted(HOLE.findall(msgid)), msgid


@pytest.mark.django_db
def test_pages_speak_russian(settings: Any) -> None:
    client = Client(headers={"accept-language": "ru"})
    client.force_login(User.objects.create_superuser("boss"))
    page = client.get(reverse("admin:index")).content.decode()
    assert "Сводка" in page
    assert "Заказы в работе" in page
    assert "Мёртвые письма" in page
    with translation.override("ru"):
        assert "Каталог пуст" in client.get(reverse("admin:processing_product_changelist")).content.decode()
