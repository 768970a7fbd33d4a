"""manage.py reference: write docs/reference.md, the commands and settings of this release, from the code."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand, CommandError, CommandParser

from orders_project.embedded import backups

INHERITED = {action.dest for action in BaseCommand().create_parser("manage.py", "any")._actions}
SECTION, VARIABLE = re.compile(r"# == (.+)"), re.compile(r"#?([A-Z0-9_]+)=(.*)")
HEAD = """# Reference

Written from the code by `make contracts`: change it there. More to look up: [metrics](operations.md#metrics),
[requests and errors](api.md), [messages](asyncapi.yaml); a running system explains each error code under `/problems/`.
"""


class Command(BaseCommand):
    help = "Write docs/reference.md: every command with its options, and every setting."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not up to date")

    def handle(self, *args: Any, check: bool, **options: Any) -> None:
        page, text = settings.BASE_DIR / "docs" / "reference.md", document()
        if check and page.read_text() != text:
            raise CommandError("docs/reference.md is not what the code says: run make contracts.")
        if not check:
            page.write_text(text)


def document() -> str:
    """The whole page."""
    return "\n".join([HEAD, "## Commands", *_commands(), "", "## Settings", *_settings(), ""])


def _commands() -> Iterator[str]:
    yield "\nOf `manage.py`: `--help` behind a command tells more. `manage.py up` is what `make run` calls.\n"
    yield "| command | what it does |\n|---|---|"
    for name, (parser, what_it_does) in sorted({**_of_django(), **_outside_django()}.items()):
        yield f"| `{name}`{_options(parser)} | {_cell(what_it_does)} |"
        for verb, one in _subcommands(parser).items():
            yield f"| `{name} {verb}`{_options(one)} | {_cell(_help_of(parser, verb))} |"


def _of_django() -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """Our commands, each with its parser and its help."""
    ours = {app.name for app in _apps()}
    commands = {name: load_command_class(str(app), name) for name, app in get_commands().items() if app in ours}
    return {name: (command.create_parser("manage.py", name), command.help) for name, command in commands.items()}


def _outside_django() -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """The commands that manage.py runs without Django."""
    return {
        "version": (argparse.ArgumentParser(), "Print the version of this release."),
        **{name: (backups.parser_of(name), about) for name, about in backups.ABOUT.items()},
    }


def _apps() -> list[AppConfig]:
    return [app for app in apps.get_app_configs() if Path(app.path).parent == settings.BASE_DIR]


def _options(parser: argparse.ArgumentParser) -> str:
    shown = [
        action.option_strings[0] if action.option_strings else str(action.metavar or action.dest).upper()
        for action in parser._actions
        if action.dest not in INHERITED and action.help != argparse.SUPPRESS
        and not isinstance(action, argparse._SubParsersAction)
    ]  # fmt: skip
    return "".join(f" `{option}`" for option in shown)


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _help_of(parser: argparse.ArgumentParser, verb: str) -> str:
    choices = (choice for action in parser._actions for choice in getattr(action, "_choices_actions", ()))
    return next((str(choice.help) for choice in choices if choice.dest == verb), "")


def _settings() -> Iterator[str]:
    yield "\nVariables of the environment, or of a file `.env` beside `manage.py`; see [.env.example](../.env.example)."
    above: list[str] = []
    for line in (settings.BASE_DIR / ".env.example").read_text().splitlines():
        if section := SECTION.match(line):
            yield f"\n### {re.split('[.:]', section[1])[0]}\n\n| variable | default | meaning |\n|---|---|---|"
        elif (variable := VARIABLE.fullmatch(line)) and above:
            default = f"`{variable[2]}`" if variable[2] and not line.startswith("#") else ""
            yield f"| `{variable[1]}` | {default} | {_cell(' '.join(above))} |"
        is_comment = line.startswith("# ") and not section
        above = [*above, line.removeprefix("# ")] if is_comment else []


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
