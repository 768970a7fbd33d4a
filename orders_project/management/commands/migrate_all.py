"""
manage.py migrate_all: migrate all databases of this process, while others use them.

# Note [Each database runs its own migrations]: Django's `migrate` runs all of them on each database, where the router
then turns most operations into nothing: most of its time goes into models without a table there. So those of an app
that is kept away from a database altogether are recorded as applied, after its own have run. The result is the same.

# Note [Why a migration gives up its place]: everybody who comes after a migration that waits for a table waits behind
it. So one that needs a table for itself waits for an instant only, and then tries again later. One with `atomic =
False` makes nobody wait (see outbox/online_ddl.py), so it may wait itself: until the transactions that were there
before it have ended.

# Note [Former indexes]: a model names in `former_indexes` those that only processes of the release before use. No
# migration drops them, as those may run, or come back, while `UPGRADING` is set. So long they stay, or are made again;
# without it they are dropped.
"""

import random
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.core.management.sql import emit_post_migrate_signal, emit_pre_migrate_signal
from django.db import Error, OperationalError, connections, router
from django.db.migrations.executor import MigrationExecutor
from django.db.utils import DEFAULT_DB_ALIAS

from common import search
from orders_project import database_limits
from orders_project.lock_waits import LockWatch
from outbox import online_ddl
from outbox.online_ddl import RowsStayLocked
from outbox.sqlstates import LOCKED, sqlstate_of

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0  # seconds between two tries
LOOK = 1.0  # seconds between two looks whether the other migration of a database has ended
TURN = "1835625074, 1"  # the advisory lock of the migration of a database
HOLDS_TURN = f"""
SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND (classid, objid) = ({TURN}) AND granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""  # noqa: S608 - a constant


class Executor(MigrationExecutor):
    """Runs migrations, and gives each of them its time to wait for a lock."""

    running: Any = None
    since = 0.0

    def apply_migration(self, state: Any, migration: Any, *args: Any, **options: Any) -> Any:
        self.running, self.since = migration, time.monotonic()
        seconds = settings.MIGRATION_LOCK_TIMEOUT if migration.atomic else settings.MIGRATION_WAIT_SECONDS
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, false)", [f"{seconds * 1000:.0f}"])
        return super().apply_migration(state, migration, *args, **options)


class Command(BaseCommand):
    help = (
        "Migrate every configured database, each with its own tables, while processes use it; say whom a migration "
        "waits for. Make the limits of this process (see DATABASE_LOCK_TIMEOUT) the defaults of all sessions there."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--database", action="append", choices=settings.DATABASES_HERE, help="this one alone; may be repeated"
        )

    def handle(self, *args: Any, database: list[str] | None, verbosity: int, **options: Any) -> None:
        self.verbosity = verbosity
        for alias in database or settings.DATABASES_HERE:
            self._say(self.style.MIGRATE_HEADING(f"database {alias}"))
            with database_limits.without_limits_of_statements(alias), self._turn(alias):
                self._migrate_until_done(alias)
                with connections[alias].cursor() as cursor:
                    cursor.execute(
                        "SELECT set_config('lock_timeout', %s, false)", [f"{settings.MIGRATION_WAIT_SECONDS}s"]
                    )
                self._make_part_indexes(alias)
                self._keep_or_drop_former_indexes(alias)
            if not database_limits.make_default(alias, settings.DATABASE_LIMITS.of_server()):
                self.stderr.write(f"database {alias}: only its owner can make the limits of sessions its defaults.")

    @contextmanager
    def _turn(self, alias: str) -> Iterator[None]:
        """Run the block while nobody else migrates this database. The turn ends with the session, however that ends."""
        began, said = time.monotonic(), False
        with connections[alias].cursor() as cursor:
            # Not pg_advisory_lock: a statement that waits has a snapshot, and the other one's indexes wait for those.
            while not _only(cursor, f"SELECT pg_try_advisory_lock({TURN})"):
                holder = _only(cursor, HOLDS_TURN)
                if time.monotonic() - began > settings.MIGRATION_WAIT_SECONDS:
                    raise CommandError(f"database {alias}: process {holder} is still migrating it.")
                if not said:
                    self.stderr.write(f"database {alias}: waits for process {holder}, which is migrating it")
                    said = True
                time.sleep(LOOK)
        try:
            yield
        finally:
            with _if_connected(alias) as cursor:
                cursor.execute(f"SELECT pg_advisory_unlock({TURN})")
                cursor.execute("RESET lock_timeout")

    def _migrate_until_done(self, alias: str) -> None:
        """
        Migrate; begin again with the migration that did not get its locks, after a pause that grows.

        :raises CommandError: if one has not got its locks within MIGRATION_WAIT_SECONDS
        """
        waiting, since, pause = "", 0.0, FIRST_PAUSE
        while True:
            executor = Executor(connections[alias], self._progress)
            try:
                return self._migrate(alias, executor)
            except RowsStayLocked as error:
                raise CommandError(f"{executor.running}: {error}") from error
            except OperationalError as error:
                if sqlstate_of(error) not in LOCKED or executor.running is None:
                    raise
                if str(executor.running) != waiting:
                    waiting, since, pause = str(executor.running), executor.since, FIRST_PAUSE
                waited = time.monotonic() - since
                if waited >= settings.MIGRATION_WAIT_SECONDS:
                    raise CommandError(f"{waiting} did not get its locks within {waited:.0f} s.") from error
            self.stderr.write(f"  {waiting} did not get its locks, trying again in {pause:g} s")
            time.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _migrate(self, alias: str, executor: Executor) -> None:
        connections[alias].prepare_database()
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
                with self._watch(alias, executor):
                    executor.migrate(own, plan=plan)
            # Also where nothing has run: permissions and roles follow the code, which may be newer.
            emit_post_migrate_signal(**about, apps=apps, plan=plan)
        if rest := [step[0] for step in everything if step not in plan]:
            recorder.ensure_schema()
            recorder.migration_qs.bulk_create(
                recorder.Migration(app=migration.app_label, name=migration.name) for migration in rest
            )
        executor.check_replacements()

    def _make_part_indexes(self, alias: str) -> None:
        """Make the indexes that no migration has, as not every server can have them: see common/search.py."""
        here = [model for model in apps.get_models() if router.allow_migrate(alias, model._meta.app_label)]
        wanted = [(model, one) for model in here for one in search.part_indexes(model)]
        missing = [(model, one) for model, one in wanted if not one.is_there(alias)]
        if not missing:
            return
        if not search.has_trigrams(alias):
            self.stderr.write(
                f"database {alias}: without the extension {search.EXTENSION}, search finds beginnings only; create it,"
                " and run this again."
            )
            return
        for model, one in missing:
            self._say(f"  the index {one.name} is made")
            online_ddl.make_index(model, one.index(), using=alias)

    def _keep_or_drop_former_indexes(self, alias: str) -> None:
        """See Note [Former indexes]."""
        here = [model for model in apps.get_models() if router.allow_migrate(alias, model._meta.app_label)]
        for model, index in [(one, index) for one in here for index in getattr(one, "former_indexes", ())]:
            if settings.UPGRADING:
                online_ddl.make_index(model, index, using=alias)
            else:
                online_ddl.drop_index(index.name, using=alias)

    def _watch(self, alias: str, executor: Executor) -> LockWatch:
        return LockWatch(
            alias,
            pid=connections[alias].connection.info.backend_pid,
            every=settings.MIGRATION_LOCK_TIMEOUT / 4,
            say=lambda line: self.stderr.write(f"  {executor.running} {line}"),
        )

    def _progress(self, action: str, migration: Any | None = None, fake: bool | None = False, /) -> None:
        if action == "apply_success":
            self._say(f"  {migration} is applied")

    def _say(self, line: str) -> None:
        if self.verbosity:
            self.stdout.write(line)


@contextmanager
def _if_connected(alias: str) -> Iterator[Any]:
    """A cursor for statements that do not matter if the connection is lost."""
    try:
        with connections[alias].cursor() as cursor:
            yield cursor
    except Error:
        pass


def _only(cursor: Any, sql: str) -> Any:
    """Return the one value of a query, or None."""
    cursor.execute(sql)
    return next(iter(cursor.fetchone() or ()), None)
