"""
The folder of backups:

    base/<when>   base backups, each checked against its manifest
    wal           what was written since, compressed, a minute after it was written at the latest
    keys          the secrets of the run: without them encrypted columns can't be read

# Note [A restore ends with a backup]: from the moment to which we went back, the archive has two histories. Each base
backup belongs to one of them, and recovery stays on that one. So a moment before the restore can still be had as it
was, and one after it begins with the backup that the restore made.
"""

import os
import re
import shlex
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from . import CannotRun, places

VARIABLE = "BACKUPS"
ARCHIVED_AFTER = 60  # seconds that a quiet server may keep what it has written to itself
MADE = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z")  # the name of one that is complete, in the form of STAMP
STAMP = "%Y%m%dT%H%M%S.%fZ"  # two within a second are two


class NoBackup(CannotRun):
    """There is nothing to restore, or nothing that can be backed up."""

    code = "no_backup"


@dataclass(frozen=True)
class Backups:
    """The folder of backups."""

    folder: Path

    @classmethod
    def named(cls, name: str) -> "Backups":
        """
        The folder that a person has named.

        :raises NoBackup: if it has not been named
        """
        if not name:
            raise NoBackup(f"name the folder of backups: {VARIABLE}=/a/folder/on/another/disk")
        return cls(Path(name).expanduser().resolve())

    @property
    def wal(self) -> Path:
        return self.folder / "wal"

    def prepare(self) -> None:
        """
        Make the folders, so that the server's user can write to them.

        :raises NoBackup: if that user cannot enter the folder
        """
        user = places.server_user()
        with places.tellable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not places.can_enter(self.folder, user):
                raise NoBackup(f"PostgreSQL runs as another user, who cannot enter {self.folder}: choose another")
            for part in (self.wal, self.folder / "base"):
                part.mkdir(mode=0o700, exist_ok=True)
                if user is not None:
                    os.chown(part, user.pw_uid, user.pw_gid)

    def refuse_another(self, data: Path) -> None:
        """
        Check that what was backed up here is of the server with these data.

        :raises NoBackup: if it is of another one: a second log between the files of the first would spoil both
        """
        made = self._made()
        if made and identity(made[-1]) != identity(data):
            raise NoBackup(f"the backups in {self.folder} are of another run: restore them, or name another folder")

    def archive(self) -> dict[str, str]:
        """Settings of a server that archives what it writes: each file once, whole or not at all."""
        kept, unfinished = self._file(".gz"), self._file(".unfinished")
        return {
            "archive_mode": "on",
            "archive_timeout": str(ARCHIVED_AFTER),
            "archive_command": (
                f"if test -e {kept}; then gunzip < {kept} | cmp -s - %p; else gzip -1 < %p > {unfinished}"
                f" && sync {unfinished} && mv {unfinished} {kept} && sync {_quoted(self.wal)}; fi"
            ),
        }

    def recovery(self, to: datetime | None) -> dict[str, str]:
        """Settings of a server that goes on from a base backup to this moment, or as far as the archive goes."""
        kept = self._file(".gz")
        target = {"recovery_target_time": to.isoformat()} if to else {}
        return {
            "restore_command": f"test -e {kept} && gunzip < {kept} > %p",
            "recovery_target_timeline": "current",
            "recovery_target_action": "promote",
            "hot_standby": "off",
            **target,
        }

    def base(self, *, before: datetime | None) -> Path:
        """
        The newest base backup that was complete at this moment.

        :raises NoBackup: if there is none
        """
        made = self._made()
        if not made:
            raise NoBackup(f"there is no backup in {self.folder}")
        usable = [folder for folder in made if before is None or moment_of(folder) <= before]
        if not usable:
            raise NoBackup(f"the oldest backup in {self.folder} is of {moment_of(made[0]):%Y-%m-%d %H:%M:%S} UTC")
        return usable[-1]

    def forget(self, *, keep: int) -> list[Path]:
        """Delete all but so many base backups, and what the oldest that is left does not need; what was deleted."""
        made = self._made()
        gone, kept = made[:-keep], made[-keep:]
        for folder in gone:
            shutil.rmtree(folder)
        if gone:
            # Not of the oldest: one that was made before a restore may be further ahead than those after it.
            first = min(map(_begin_of, kept))
            for file in self.wal.glob("*.gz"):
                if file.name[8:24] < first and not file.name.endswith(".history.gz"):
                    file.unlink()
        return gone

    def _made(self) -> list[Path]:
        """The base backups, the oldest first."""
        return sorted(folder for folder in (self.folder / "base").glob("*Z") if MADE.fullmatch(folder.name))

    def _file(self, suffix: str) -> str:
        return _quoted(self.wal) + f"/%f{suffix}"


def moment_of(base: Path) -> datetime:
    """When a base backup was complete."""
    return datetime.strptime(base.name, STAMP).replace(tzinfo=UTC)


def identity(data: Path) -> bytes | None:
    """What tells the data of one server, and copies of them, from those of every other; None if there are none."""
    control = data / "global" / "pg_control"
    return control.read_bytes()[:8] if control.exists() else None


def _begin_of(base: Path) -> str:
    """Where in the log a base backup begins, without the number of the history that it belongs to."""
    return (base / "backup_label").read_text().split("(file ", 1)[1][8:24]


def _quoted(path: Path) -> str:
    return shlex.quote(str(path)).replace("%", "%%")
