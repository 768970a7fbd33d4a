"""Raw SQL stays inside its service, as imports do: import-linter cannot see it."""

import re
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings

PROJECT = Path(settings.BASE_DIR)
LOOKS_EVERYWHERE = ("orders_project/backoffice/", "orders_project/audit/")  # where SQL over several services may be


def tables(app_label: str) -> set[str]:
    """The tables of an app, apart from those of the outbox, which every service has."""
    return {model._meta.db_table for model in apps.get_app_config(app_label).get_models() if not model._meta.proxy}


def sources(package: str) -> list[Path]:
    """The modules of a package without its tests and migrations."""
    found = (PROJECT / package).rglob("*.py")
    return [path for path in found if not {"tests", "migrations"} & set(path.relative_to(PROJECT).parts)]


def named_tables(path: Path) -> set[str]:
    """The words of a module that are the name of some service's table."""
    known = set().union(*(tables(service) for service in settings.SERVICES))
    return known & set(re.findall(r"[a-z_]+", path.read_text()))


@pytest.mark.parametrize("package", [*settings.SERVICES, "common", "outbox", "orders_project"])
def test_raw_sql_names_no_table_of_another_service(package: str) -> None:
    own = tables(package) if package in settings.SERVICES else set()
    foreign = {
        str(path.relative_to(PROJECT)): named_tables(path) - own
        for path in sources(package)
        if not str(path.relative_to(PROJECT)).startswith(LOOKS_EVERYWHERE)
    }
    assert {path: names for path, names in foreign.items() if names} == {}


def test_the_search_finds_what_it_is_for() -> None:
    assert "payments_entry" in named_tables(PROJECT / "payments" / "audit.py")
