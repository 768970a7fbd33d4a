"""Where things lie: the cache of downloads, the home of a server, and who may use it now."""

import argparse
import contextlib
import errno
import fcntl
import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from . import CannotRun

SHELF = Path("/var/tmp")  # noqa: S108 (each folder on it is private to its owner)
STANDS_FOR = "stands-for"  # the file in a stand-in that names what it replaces
SETTLING = 60.0  # seconds that a new run may take before it claims its home
PROJECT = Path(__file__).resolve().parents[2]


# Scratch homes are ours for as long as we live, even while their servers are down.
_held: dict[Path, IO[str]] = {}


class HomeInUse(CannotRun):
    """Another run owns this folder."""

    code = "home_in_use"


class ForeignFolder(CannotRun):
    """The folder we would use belongs to somebody else."""

    code = "foreign_folder"


class CannotWrite(CannotRun):
    """The disk is full, or may not be written to."""

    code = "cannot_write"


IS_NO_FOLDER = "it is no folder; name others by DATA, ORDERS_CACHE and BACKUPS"
WHAT_TO_DO = {
    errno.ENOSPC: "free some space and start again",
    errno.EDQUOT: "free some space and start again",
    errno.EFBIG: "allow larger files (ulimit -f) and start again",
    errno.EROFS: "name folders that can be written to by DATA and ORDERS_CACHE",
    errno.EACCES: "name folders that can be written to by DATA and ORDERS_CACHE",
    errno.EPERM: "name folders that can be written to by DATA and ORDERS_CACHE",
    errno.EEXIST: IS_NO_FOLDER,
    errno.ENOTDIR: IS_NO_FOLDER,
    errno.ELOOP: IS_NO_FOLDER,
    errno.ENAMETOOLONG: IS_NO_FOLDER,
}


@contextlib.contextmanager
def tellable(folder: Path) -> Iterator[None]:
    """
    Say in one line what to do about a folder that can't be written to.

    :raises CannotWrite: in place of the system's error
    """
    try:
        yield
    except OSError as error:
        if error.errno not in WHAT_TO_DO:
            raise
        raise CannotWrite(f"{error.filename or folder}: {error.strerror}: {WHAT_TO_DO[error.errno]}") from None


def cache() -> Path:
    """The folder of downloads: ORDERS_CACHE, or `.cache` in the project. It outlives `make clean`."""
    named = os.environ.get("ORDERS_CACHE")
    folder = Path(named).expanduser().resolve() if named else PROJECT / ".cache"
    with tellable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def data_of_run(env: Mapping[str, str]) -> Path:
    """The folder in which a run keeps everything: DATA, or `.data` in the project."""
    return Path(env.get("DATA") or PROJECT / ".data").expanduser().resolve()


def server_user() -> pwd.struct_passwd | None:
    """Whom to become for servers that refuse to run as root; nobody else to become otherwise."""
    return pwd.getpwnam("nobody") if os.getuid() == 0 else None


def suitable(folder: Path, *, user: pwd.struct_passwd | None = None) -> Path:
    """
    The folder itself, or a stand-in where a server can live when it cannot live there.

    Shell scripts of servers break at spaces, and a server that runs as another user must be able to
    enter every folder above its own (it cannot enter /root, nor a test's private folder).
    """
    folder = folder.resolve()
    with tellable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(character.isspace() for character in str(folder)) or not can_enter(folder, user):
            replaced, folder = folder, stand_in(folder)
            folder.mkdir(mode=0o711, exist_ok=True)
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                raise ForeignFolder(f"{folder} belongs to another user; remove it and start again")
            (folder / STANDS_FOR).write_text(str(replaced))
    return folder


def stand_in(folder: Path) -> Path:
    """The one place that replaces an unsuitable folder: the same for every run of the same user."""
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    return SHELF / f"orders-{os.getuid()}-{digest}"


def scratch(kind: str) -> Path:
    """A new home for servers that a run starts for itself alone; those that killed runs left are removed."""
    for left in SHELF.glob(f"orders-{kind}-*"):
        with contextlib.suppress(FileNotFoundError, HomeInUse):
            state = left.stat()
            if state.st_uid == os.getuid() and time.time() - state.st_mtime > SETTLING:
                forget(left)
    for note in SHELF.glob(f"orders-{os.getuid()}-*/{STANDS_FOR}"):
        with contextlib.suppress(FileNotFoundError):
            if note.stat().st_uid == os.getuid() and not Path(note.read_text()).exists():
                shutil.rmtree(note.parent, ignore_errors=True)
    home = Path(tempfile.mkdtemp(prefix=f"orders-{kind}-", dir=SHELF))
    home.chmod(0o711)  # so that a server under another user can reach its data
    _held[home] = claim(home)
    return home


def can_enter(folder: Path, user: pwd.struct_passwd | None) -> bool:
    """Whether this user may enter the folder, or run the program."""
    if user is None:
        return True
    try:
        subprocess.run(
            ["test", "-x", folder], check=True, cwd="/", env={"PATH": os.defpath},
            user=user.pw_uid, group=user.pw_gid, extra_groups=[],
        )  # fmt: skip
    except subprocess.CalledProcessError:
        return False
    return True


def kept(path: Path, make: Callable[[], str]) -> str:
    """The text in a file that nobody else may read; made at the first time, and whole or not at all."""
    if not path.exists() or not path.stat().st_size:
        unfinished = path.with_name(f"{path.name}.unfinished")
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600)
        unfinished.write_text(make())
        unfinished.rename(path)
    return path.read_text()


def recall(path: Path) -> list[int]:
    """The numbers in a file; none if it is not there, or a run that was killed left it half written."""
    try:
        return [int(word) for word in path.read_text().split()]
    except (FileNotFoundError, ValueError):
        return []


def lock(path: Path) -> IO[str]:
    """Wait for the lock on this path; closing the file returned gives it back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = path.open("a+")
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def claim(home: Path) -> IO[str]:
    """
    Own this folder until the file returned is closed, or this process ends in whatever way.

    :raises HomeInUse: if a living process owns it
    """
    with tellable(home):
        home.mkdir(parents=True, exist_ok=True)
        handle = (home / "owner").open("a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.seek(0)
        owner = handle.read().strip() or "another process"
        handle.close()
        raise HomeInUse(f"{home} is in use by process {owner}: stop that run first") from None
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def is_in_use(home: Path) -> bool:
    """Whether a living process owns this folder."""
    try:
        with (home / "owner").open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none, or it may not be read
        return False
    return False


def forget(home: Path) -> None:
    """
    Remove the data under this folder, wherever its servers kept it.

    :raises HomeInUse: if a run is using it
    """
    if home in _held:
        _held.pop(home).close()
    homes = [owner.parent for owner in home.glob("**/owner")] if home.exists() else []
    for owned in homes:
        claim(owned).close()
    for folder in [*(stand_in(owned) for owned in homes), home]:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Forget the data under a folder.")
    parser.add_argument("home", type=Path)
    try:
        forget(parser.parse_args().home)
    except HomeInUse as refusal:
        raise SystemExit(str(refusal)) from None
