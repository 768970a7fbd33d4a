"""Searching for products by their names costs a few comparisons for each of them, whatever is searched for."""

from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.auth.models import User
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from common.search import MAX_WORDS, distinct, has_parts, has_words
from processing import services
from processing.models import PRODUCT_PARTS, PRODUCT_WORDS, Product

pytestmark = pytest.mark.django_db

MANY = "e " * 98 + "zq"  # as long as a name may be
NINE = "aa bb cc dd ee ff gg hh ii"


@pytest.fixture
def lamp() -> Product:
    return services.make_product(
        name="A desk lamp (9 W), straße", sku="DL-2000", price=1, stock=1, actor="", now=timezone.now()
    )


def found(client: Client, name: str) -> tuple[list[str], int]:
    """The skus of the products that the catalogue finds, and how many comparisons with texts the query has."""
    with CaptureQueriesContext(connections["processing"]) as queries:
        answer = client.get("/products", {"name": name})
    assert answer.status_code == 200, answer.content
    return [one["sku"] for one in answer.json()["results"]], str(queries.captured_queries[0]["sql"]).count(" LIKE ")


@pytest.mark.parametrize(
    ("term", "words"),
    [
        ("", []),
        ("lamp", ["lamp"]),
        ("Lamp LAMP lamp", ["lamp"]),
        ("a am lamp amp desk", ["lamp", "desk"]),
        ("amp desk lamp", ["desk", "lamp"]),
        (MANY, ["zq", "e"]),
        (" ".join("abcdefghijkl"), list("abcdefghi")),
    ],
)
def test_words_are_looked_for_once(term: str, words: list[str]) -> None:
    assert distinct(term.split()) == words
    assert len(words) <= MAX_WORDS + 1


def test_a_term_of_any_length_is_looked_through_in_no_time() -> None:
    words = [chr(number) for number in range(0x4E00, 0x9FFF)]
    assert len(distinct(words)) == MAX_WORDS + 1


class TestTheCatalogue:
    @pytest.mark.parametrize(
        ("name", "is_found", "comparisons"),
        [
            ("lamp", True, 2), ("LAMP lamp la", True, 2), ("lamp desk", True, 4), ("9 w", True, 2), ("e", True, 1),
            ("a e la lamp", True, 3), ("a e la sofa", False, 4), ("l_p", False, 1), ("2000", False, 2),
            (MANY, False, 2), ("aa bb cc dd ee ff gg hh", False, 8), ("STRASSE", False, 2), ("straße", True, 2),
        ],
    )  # fmt: skip
    def test_compares_a_name_with_each_word_once(
        self, client: Client, lamp: Product, name: str, is_found: bool, comparisons: int
    ) -> None:
        assert found(client, name) == (["DL-2000"] * is_found, comparisons)

    @pytest.mark.parametrize("name", [NINE, " ".join(f"lamp{number}" for number in range(20)), " ".join("abcdefghi")])
    def test_refuses_more_words_than_it_looks_for(self, client: Client, lamp: Product, name: str) -> None:
        answer = client.get(f"/products?name={quote(name)}&sort=x")
        assert answer.status_code == 400
        assert answer.json()["errors"]["name"] == ["Search for at most 8 words."]
        assert "sort" in answer.json()["errors"]

    def test_is_narrowed_by_the_index_with_the_words_that_it_can_find(self) -> None:
        for term, narrowed in (("a lamp de", "lamp"), ("desk l-p lamp", "desk lamp"), ("a be", "")):
            assert PRODUCT_PARTS.may_have(term) == has_parts(PRODUCT_PARTS.texts, narrowed)


class TestTheBackOffice:
    @pytest.mark.parametrize("term", [MANY, NINE, "lamp " + NINE, "x" * 3000, "a\\b", "'" * 50, "lamp " * 600])
    def test_looks_for_some_of_very_many_words(self, client: Client, lamp: Product, term: str) -> None:
        client.force_login(User.objects.create_superuser("boss"))
        answer = client.get("/admin/processing/product/", {"q": term})
        assert answer.status_code == 200
        assert list(answer.context["cl"].result_list) == [lamp] * (term.split()[0] == "lamp" and "aa" not in term)

    @pytest.mark.parametrize(
        ("term", "is_found"),
        [("desk lam", True), ("desk " * 300, True), ("esk", False), (NINE, False), ("y" * 5000, False)],
    )
    def test_looks_for_the_beginnings_of_some_words(self, lamp: Product, term: str, is_found: bool) -> None:
        rows: Any = Product.objects.filter(has_words(PRODUCT_WORDS, term))
        assert list(rows) == [lamp] * is_found
        assert str(rows.query).count(":*") <= MAX_WORDS
