"""
manage.py migrate_all: migrate all databases of this process.

# Note [Each database runs its own migrations]: Django's `migrate` runs all of them on each database, where the router
then turns most operations into nothing: most of its time goes into models without a table there. So those of an app
that is kept away from a database altogether are recorded as applied, after its own have run. The result is the same.
"""

import time
from argparse import ArgumentParser
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.core.management.sql import emit_post_migrate_signal, emit_pre_migrate_signal
from django.db import OperationalError, connections, router
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import DEFAULT_DB_ALIAS

from orders_project import database_limits
from outbox.sqlstates import sqlstate_of

LOCKED = "55P03"
TRIES, PAUSE = 12, 5.0  # seconds between two of them


class Command(BaseCommand):
    help = (
        "Migrate every configured database, each with its own tables, and make the limits of this process (see "
        "DATABASE_LOCK_TIMEOUT) the defaults of all sessions there."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--database", action="append", choices=settings.DATABASES_HERE, help="this one alone; may be repeated"
        )

    def handle(self, *args: Any, database: list[str] | None, verbosity: int, **options: Any) -> None:
        self.verbosity = verbosity
        for alias in database or settings.DATABASES_HERE:
            self._say(self.style.MIGRATE_HEADING(f"database {alias}"))
            with database_limits.without_limits_of_statements(alias):
                self._migrate_unless_locked(alias)
            if not database_limits.make_default(alias, settings.DATABASE_LIMITS.of_server()):
                self.stderr.write(f"database {alias}: only its owner can make the limits of sessions its defaults.")

    def _migrate_unless_locked(self, alias: str) -> None:
        """
        Migrate; while somebody uses a table that a migration needs for itself, try again.

        # Note [Why not wait for the lock]: everybody else would wait behind a migration that waits.
        """
        for attempt in range(1, TRIES + 1):
            try:
                self._migrate(alias)
            except OperationalError as error:
                if sqlstate_of(error) != LOCKED or attempt == TRIES:
                    raise
                self._say(f"  a table is in use, trying again in {PAUSE:g} s")
                time.sleep(PAUSE)
            else:
                break

    def _migrate(self, alias: str) -> None:
        connections[alias].prepare_database()
        executor = MigrationExecutor(connections[alias], self._progress)
        loader, recorder = executor.loader, executor.recorder
        loader.check_consistent_history(connections[alias])
        if conflicts := loader.detect_conflicts():
            raise CommandError(f"Several last migrations of one app, to be merged: {conflicts}")
        targets = loader.graph.leaf_nodes()
        own = [target for target in targets if router.allow_migrate(alias, target[0])]
        plan, everything = executor.migration_plan(own), executor.migration_plan(targets)
        if plan or alias == DEFAULT_DB_ALIAS:
            about: dict[str, Any] = {"verbosity": self.verbosity, "interactive": False, "db": alias}
            emit_pre_migrate_signal(**about, apps=apps, plan=plan)
            if plan:
                executor.migrate(own, plan=plan)
            # Also where nothing has run: permissions and roles follow the code, which may be newer.
            emit_post_migrate_signal(**about, apps=apps, plan=plan)
        if rest := [step[0] for step in everything if step not in plan]:
            recorder.ensure_schema()
            recorder.migration_qs.bulk_create(
                recorder.Migration(app=migration.app_label, name=migration.name) for migration in rest
            )
        executor.check_replacements()

    def _progress(self, action: str, migration: Any | None = None, fake: bool | None = False, /) -> None:
        if action == "apply_success":
            self._say(f"  {migration} is applied")

    def _say(self, line: str) -> None:
        if self.verbosity:
            self.stdout.write(line)
