"""
Backups of the embedded PostgreSQL, all databases at one moment: `manage.py backup` and `manage.py restore`.

# Note [PostgreSQL's own programs]: they are of the server's version wherever the server comes from, and a person who
knows them can do without us. Tools that add deduplication, encryption and object stores are for servers that somebody
runs for the whole company: docs/backups.md says how to use one of them.

# Note [The broker is emptied]: its queues hold messages of a time that the databases know nothing of any more. What was
under way at the moment to which we go back is in the outboxes: `manage.py resend` sends it again.
"""

import argparse
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from orders_project.environment import Environment
from outbox.management.arguments import moment

from . import CannotRun, places, processes
from .backup_folder import STAMP, VARIABLE, Backups, NoBackup, identity, moment_of
from .postgres import USER, Postgres
from .postgres_sources import data_of
from .rabbitmq import data_of as data_of_broker

LONGEST_RECOVERY = 24 * 3600.0
SEGMENT = 24  # characters in the name of a file of PostgreSQL's log
NOT_REACHED = "recovery ended before configured recovery target was reached"
ABOUT = {
    "backup": "Back up the databases of the system that `make run` runs here, which was started with BACKUPS.",
    "restore": "Bring the databases of a system that does not run at the moment back to an earlier moment.",
}
KEYS = ("secret-key", "encryption-key", "jwt-key.pem", "postgres/password")
NEXT_STEPS = """\
The databases are as they were at {moment}. What was there before is in {aside}.

  1. make run
  2. ./manage.py resend --grace 0s
     sends what was under way at that moment
  3. ./manage.py reconcile --from {day} --to {tomorrow}
     shows what the gateway has booked since
  4. ./manage.py audit
     is clean when all of it has been handled
"""


def backup(data: Path, backups: Backups) -> Path:
    """
    Make a base backup of the server that runs in DATA, and check it; the folder.

    :raises NoBackup: if none runs, or it archives nothing, or a backup cannot be made
    :raises HomeInUse: if another one is being made in the same folder
    """
    if not places.is_in_use(data / "postgres"):
        raise NoBackup(f"no PostgreSQL runs in {data}: start it with {VARIABLE}=… make run")
    server = Postgres.attached(data / "postgres")
    backups.refuse_another(data_of(data / "postgres"))
    unfinished = backups.folder / "base" / "unfinished"
    programs = replace(server.installation, env=server.installation.env | {"PGPASSWORD": server.password})
    address = ["-h", "127.0.0.1", "-p", str(server.port), "-U", USER]
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection, places.claim(backups.folder):
        archives = connection.execute("SELECT current_setting('archive_command')").fetchone()
        if archives != (backups.archive()["archive_command"],):
            raise NoBackup(f"the run in {data} archives nothing in {backups.folder}: start it with {VARIABLE}")
        shutil.rmtree(unfinished, ignore_errors=True)
        for program, *arguments in (
            ("pg_basebackup", *address, "-D", str(unfinished), "--checkpoint=fast", "--wal-method=stream"),
            ("pg_verifybackup", "--quiet", str(unfinished)),
        ):
            done = programs.run(program, *arguments)
            if done.returncode:
                raise NoBackup(f"{program}: {(done.stderr or done.stdout).strip()}")
        _await_archive(connection, backups)
    _copy_keys(data, backups.folder / "keys", aside=_before(), moved={})
    return unfinished.rename(unfinished.with_name(f"{datetime.now(UTC):{STAMP}}"))


def _await_archive(connection: psycopg.Connection[Any], backups: Backups) -> None:
    """Wait until what has been written up to now is in the archive: else it would be found out when it is needed."""
    ((file, at),) = connection.execute(
        "SELECT pg_walfile_name(pg_create_restore_point('backup')), clock_timestamp()"
    ).fetchall()
    connection.execute("SELECT pg_switch_wal()")
    while not (backups.wal / f"{file}.gz").exists():
        failed = connection.execute("SELECT 1 FROM pg_stat_archiver WHERE last_failed_time > %s", [at]).fetchone()
        if failed:
            raise NoBackup(f"{file} could not be archived in {backups.wal}: PostgreSQL's log says why")
        time.sleep(0.1)


def restore(data: Path, backups: Backups, *, to: datetime | None) -> str:
    """
    Bring the databases in DATA, whose run has ended, to this moment, or as far as the archive goes; what to do next.

    :raises HomeInUse: if its server has not ended
    :raises NoBackup: if there is no backup of that moment
    """
    places.claim(data / "postgres").close()
    base = backups.base(before=to)
    backups.prepare()
    # Note [A restore that is killed]: until the copy is complete, nothing has been moved. What was moved is looked
    # through again by the next try, as it may hold what was never archived.
    into, suffix = data_of(data / "postgres"), _before()
    copy, before = into.with_name(f"{into.name}.restoring"), sorted(into.parent.glob(f"{into.name}.before-*"))
    shutil.rmtree(copy, ignore_errors=True)
    moved: dict[Path, Path] = {}
    ours = identity(base)
    try:
        _copy(base, copy)
        _bring_unarchived([old for old in (*before, into) if identity(old) == ours], copy, backups)
        (copy / "recovery.signal").touch()
        for folder in (into, data_of_broker(data / "rabbitmq")):
            if folder.exists():
                moved[folder] = folder.rename(f"{folder}{suffix}")
        copy.rename(into)
        is_another = into in moved and identity(moved[into]) != ours
        _copy_keys(backups.folder / "keys", data, aside=suffix if is_another else None, moved=moved)
        last = _recover(data, backups, to=to)
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        for folder, aside in moved.items():
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
        raise
    reached = (to or last or moment_of(base)).astimezone(UTC)
    return NEXT_STEPS.format(
        moment=f"{reached:%Y-%m-%d %H:%M:%S} UTC",
        day=reached.date(),
        tomorrow=datetime.now(UTC).date() + timedelta(days=1),
        aside=" and ".join(map(str, moved.values())) or "no place",
    )


def _recover(data: Path, backups: Backups, *, to: datetime | None) -> datetime | None:
    """Let a server recover, and back up what it has become; the time of the last transaction that it found."""
    settings = backups.archive() | backups.recovery(to)
    server = Postgres(data / "postgres", settings=settings, start_timeout=LONGEST_RECOVERY)
    try:
        server.start()
        with psycopg.connect(server.url("postgres")) as connection:
            ((last,),) = connection.execute("SELECT pg_last_xact_replay_timestamp()").fetchall()
        backup(data, backups)
    except processes.NotReady as failure:
        if NOT_REACHED not in str(failure):
            raise
        raise NoBackup(f"what is in {backups.folder} ends before {to}; without --to, all of it is restored") from None
    finally:
        server.stop()
    return last


def _bring_unarchived(olds: Sequence[Path], new: Path, backups: Backups) -> None:
    """Take over what the servers before had written and not archived, as far as their disks are still there."""
    brought: set[str] = set()
    for file in (file for old in olds for file in sorted((old / "pg_wal").glob("0*"))):
        if len(file.name) == SEGMENT and not (backups.wal / f"{file.name}.gz").exists() and file.name not in brought:
            (new / "pg_wal" / file.name).unlink(missing_ok=True)
            _copy(file, new / "pg_wal" / file.name)
            brought.add(file.name)


def _copy(there: Path, here: Path) -> None:
    """
    Copy a file or a folder, owners and all.

    :raises NoBackup: if it cannot be copied
    """
    done = subprocess.run(["cp", "--archive", "--reflink=auto", there, here], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2] or f"cp ended with {done.returncode}"
        raise NoBackup(f"{there} could not be copied, and everything is as it was: {said}")


def _copy_keys(there: Path, here: Path, *, aside: str | None, moved: dict[Path, Path]) -> None:
    """
    Copy the secrets of a run.

    :param aside: what is added to the name of one that is replaced; without it, none that is here is
    :param moved: gets where those are that were replaced
    """
    for name in KEYS:
        old, new = here / name, there / name
        if not new.exists() or (old.exists() and (aside is None or old.read_bytes() == new.read_bytes())):
            continue
        old.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if old.exists():
            moved[old] = old.rename(f"{old}{aside}")
        old.touch(mode=0o600)
        old.write_bytes(new.read_bytes())


def _before() -> str:
    """What is added to the name of what is replaced now."""
    return f".before-{datetime.now(UTC):{STAMP}}"


# At a terminal --------------------------------------------------------------------------------------------------------


def _number(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of backups: 1 or more")
    return int(text)


def parser_of(command: str) -> argparse.ArgumentParser:
    """What `manage.py backup` or `manage.py restore` understands."""
    parser = argparse.ArgumentParser(prog=f"manage.py {command}", description=ABOUT[command])
    parser.add_argument("--folder", default="", help=f"the folder of backups (default: {VARIABLE})")
    if command == "backup":
        parser.add_argument("--keep", type=_number, metavar="N", help="delete all but the N newest afterwards")
    else:
        parser.add_argument("--to", type=moment, metavar="TIME", help="2026-11-01T12:00Z; default: the archive's end")
    return parser


def main(command: str, arguments: Sequence[str]) -> None:
    """
    Back up or restore the system in DATA.

    :raises SystemExit: if it cannot be done; the message says why
    """
    options = parser_of(command).parse_args(arguments)
    Environment(env_file=places.PROJECT / ".env")
    data = places.data_of_run(os.environ)
    try:
        backups = Backups.named(options.folder or os.environ.get(VARIABLE, ""))
        with places.tellable(backups.folder):
            if command == "backup":
                print(f"{backup(data, backups)} is complete and checked.")
                for gone in backups.forget(keep=options.keep) if options.keep else ():
                    print(f"{gone} is deleted.")
            else:
                with places.claim(data):
                    print(restore(data, backups, to=options.to))
    except (CannotRun, psycopg.Error) as refusal:
        raise SystemExit(f"{command}: {refusal}") from None
