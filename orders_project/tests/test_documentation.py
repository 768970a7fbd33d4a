"""The documentation names only what exists: pages, headings, commands and their options, targets, files, statuses."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from django.core.management import call_command, get_commands, load_command_class

from orders.models import Status
from orders.saga import FAILURES
from orders_project.embedded import backups

PROJECT = Path(__file__).resolve().parents[2]
DOCS, RUSSIAN = PROJECT / "docs", PROJECT / "docs" / "ru"
PAGES = sorted([*PROJECT.glob("*.md"), *DOCS.glob("*.md"), *RUSSIAN.glob("*.md")])
STANDING = [page for page in PAGES if page.name not in ("CHANGELOG.md", "decisions.md")]  # the others tell of the past
OUTSIDE_DJANGO = {"up", "version", "help"}
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def each(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(PROJECT)))


def anchors(page: Path) -> set[str]:
    """The fragments that lead to the headings of a page, as GitHub and GitLab make them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.+?) *$", FENCE.sub("", page.read_text()), re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {f"{slug}-{n}" if n else slug for slug, last in found.items() for n in range(last + 1)}


@each(PAGES)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text()))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = unquote(link).partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} is not there"
        assert not anchor or target.suffix != ".md" or anchor in anchors(target), f"{link} has no such heading"


def commands(text: str) -> Iterator[str]:
    """What follows manage.py wherever a page names it."""
    code = re.sub(r"\\\n *", "", text)
    uses = re.findall(r"manage\.py +([^`|&;<>)\n]+)", code) + re.findall(r"make manage ARGS=\"?([^\"`\n]+)", code)
    return (re.sub(r" +#.*", "", use).strip() for use in uses)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Every option of a command, those of its subcommands too."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= set().union(*map(options_of, action.choices.values()))
    return found


@each(STANDING)
def test_every_command_exists_with_its_options(page: Path) -> None:
    known = get_commands()
    parsers: dict[str, set[str]] = {}
    for use in commands(page.read_text()):
        command = re.split(r"\W", use)[0]
        if command in OUTSIDE_DJANGO or not command:
            continue
        if command in backups.ABOUT:
            parsers[command] = options_of(backups.parser_of(command))
        assert command in {*known, *parsers}, f"manage.py {use}"
        if command not in parsers:
            one = load_command_class(known[command], command)
            parsers[command] = options_of(one.create_parser("manage.py", command))
        unknown = set(re.findall(r"(?<=\s)--[a-z][a-z-]*", use.partition(" -- ")[0])) - parsers[command]
        assert not unknown, f"manage.py {use}"


@each(STANDING)
def test_every_target_of_make_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    code = "\n".join(FENCE.findall(text))
    spans = [*re.findall(r"`make ([a-z-]+)[^`]*`", text), *re.findall(r"^make ([a-z-]+)", code, re.MULTILINE)]
    assert set(spans) <= targets


@each(STANDING)
def test_every_file_exists(page: Path) -> None:
    places = "|".join(path.name for path in PROJECT.iterdir() if path.is_dir() and not path.name.startswith("."))
    named = re.findall(rf"`((?:{places}|\.ci)/[\w./-]+)`", page.read_text())
    named += re.findall(rf"\b(?:python3?|node|sh) ((?:{places})/[\w./-]+)", page.read_text())
    made = ("docs/contracts/VERSION", "docker/secrets", "docker/.env", "docker/kubernetes/overlays/dev/secrets/")
    missing = [name for name in named if not (PROJECT / name).exists() and not name.startswith(made)]
    assert not missing


def test_the_tour_is_the_same_in_both_languages() -> None:
    def tour(name: str) -> list[str]:
        (block,) = (block for block in FENCE.findall((PROJECT / name).read_text()) if "URL=" in block)
        return [re.sub(r"\s*(^|\s)#.*", "", line) for line in block.splitlines()]

    assert tour("README.md") == tour("README.ru.md")


@pytest.mark.parametrize("name", sorted(page.name for page in RUSSIAN.glob("*.md") if (DOCS / page.name).exists()))
def test_a_translation_has_all_that_its_original_has(name: str) -> None:
    def skeleton(page: Path) -> tuple[list[str], list[str], list[str]]:
        text = page.read_text()
        prose = FENCE.sub("", text)
        code = [re.sub(r"#.*", "", line).rstrip() for block in FENCE.findall(text) for line in block.splitlines()]
        return re.findall(r"^#+ |^\| `?\w*", prose, re.MULTILINE), code, re.findall(r"^\d+\. ", prose, re.MULTILINE)

    if name == "README.md":
        return
    ours, theirs = skeleton(RUSSIAN / name), skeleton(DOCS / name)
    assert len(ours[0]) == len(theirs[0])
    assert ours[1:] == theirs[1:]


def test_the_reference_is_what_the_code_says() -> None:
    call_command("reference", check=True)


@pytest.mark.parametrize("page", [DOCS / "lifecycle.md", RUSSIAN / "lifecycle.md"], ids=["en", "ru"])
def test_the_life_of_an_order_explains_every_status_and_failure(page: Path) -> None:
    text = page.read_text()
    assert sorted(re.findall(r"^\| `(\w+)` \|", text.partition("\n## ")[0], re.MULTILINE)) == sorted(Status.values)
    assert {reason for reason in FAILURES if f"`{reason}`" not in text} == set()
