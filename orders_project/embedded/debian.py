"""Debian's packages without root: downloaded with what they depend on and unpacked into the cache."""

import contextlib
import errno
import os
import platform
import pwd
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote

from . import CannotRun, places

# The C library belongs to the system's own loader: a newer copy beside it would not run.
BOUND_TO_THE_SYSTEM = {"libc6", "libc-bin"}
LISTS_LAST = 3600.0  # seconds for which what one package was planned with serves the next one too
OFFERED = re.compile(r"^'[^']+' ([^_ ]+)_([^_ ]+)_[^_ ]+\.deb (\d+) ", re.MULTILINE)
TELLING = re.compile(r"^(E|W: Failed to fetch|dpkg[^:]*: error):? ")


class NoPackages(CannotRun):
    """The package cannot be had from here."""

    code = "no_packages"


def unpack(
    package: str,
    *,
    into: Path | None = None,
    user: pwd.struct_passwd | None = None,
    settle: Callable[[Path, Path], None] | None = None,
    choose: Callable[[list[str]], str] | None = None,
    without: str = "",
    called: str = "",
    release: str = "",
) -> Path:
    """
    The folder that holds this package and everything it needs that the system lacks.

    The first call downloads it, later calls find it. Calls that race wait for each other, and the folder
    appears whole or not at all: what a killed run left half done is thrown away.

    :param into: a folder for unpacked packages; by default one in the cache, by system and architecture
    :param user: who else must be able to enter that folder
    :param settle: called as settle(unpacked, final) before the folder takes its final place
    :param choose: picks what to fetch from the names that this package, an empty one, depends on
    :param without: a pattern of names of packages that it depends on and that nobody here needs
    :param called: what to call it in the line that says what is being fetched; no line otherwise
    :param release: another release of Debian, such as trixie, from the system's own mirror; with everything that the
        package needs, down to the C library (see other_release.py)
    :raises NoPackages: if there is no apt here, or it cannot deliver
    """
    shelf = _shelf(into, user, release)
    final = shelf / package
    if final.exists():
        return final
    if not all(map(shutil.which, ("apt-get", "apt-cache", "dpkg"))):
        raise NoPackages(f"no apt-get here to download {package} with")
    with places.tellable(shelf), places.lock(shelf / f".{package}.lock") as lock:
        if final.exists():
            return final
        scratch = shelf / f".{package}.unfinished"
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            unpacked = scratch / "root"
            apt = _Apt(shelf, scratch, held=lock.fileno(), release=release)
            for archive in apt.download(package, choose=choose, without=without, called=called):
                apt.run("dpkg", "-x", archive, unpacked)
            if settle is not None:
                settle(unpacked, final)
            unpacked.chmod(0o755)
            unpacked.rename(final)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return final


def is_unpacked(package: str, *, user: pwd.struct_passwd | None = None, release: str = "") -> bool:
    """Whether `unpack` would find the package without downloading anything."""
    return (_shelf(None, user, release) / package).exists()


def environment(root: Path) -> dict[str, str]:
    """PATH and LD_LIBRARY_PATH with which the programs of an unpacked package find each other."""
    programs = [root / "usr/sbin", root / "usr/bin", root / "sbin", root / "bin"]
    libraries = [folder for parent in ("usr/lib", "lib") for folder in sorted(root.glob(f"{parent}/*-linux-*"))]
    return {
        "PATH": os.pathsep.join([*map(str, programs), os.environ.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, [*libraries, root / "usr/lib", root / "lib"])),
    }


def _shelf(into: Path | None, user: pwd.struct_passwd | None, release: str) -> Path:
    return places.suitable((into or places.cache() / _system()) / release, user=user)


def _system() -> str:
    names = ["linux", ""]
    with contextlib.suppress(OSError):
        release = platform.freedesktop_os_release()
        names = [release.get("ID", "linux"), release.get("VERSION_ID", "")]
    return "-".join(filter(None, [*names, platform.machine()]))


class _Apt:
    """apt with lists of its own, which all packages on one shelf share."""

    def __init__(self, shelf: Path, scratch: Path, *, held: int, release: str) -> None:
        self._lists = shelf / ".apt"
        self._bound = () if release else BOUND_TO_THE_SYSTEM
        self._archives = scratch / "archives"
        self._held = [held]
        self._troubles = ""
        for folder in (self._lists / "lists/partial", scratch / "partial", self._archives):
            folder.mkdir(parents=True, exist_ok=True)
        options = [
            f"Dir::State::lists={self._lists}/lists",
            f"Dir::Cache={self._lists}",
            f"Dir::Cache::archives={scratch}",
            "Dir::Cache::pkgcache=pkgcache.bin",  # which an image for containers switches off
            "Dir::Cache::srcpkgcache=",
            "Debug::NoLocking=1",  # the system's locks are not ours to take; we hold our own
            "APT::Sandbox::User=root",  # the sandbox's user could not enter the scratch folder
            "APT::Install-Recommends=0",
            "Acquire::Languages=none",
            "Acquire::Retries=2",
            "Acquire::http::Timeout=20",
        ]
        self._options = [word for option in options for word in ("-o", option)]
        if release:
            self._options += [word for option in self._of_release(release) for word in ("-o", option)]

    def _of_release(self, release: str) -> list[str]:
        """Options by which apt knows another release alone, and nothing of it is installed yet."""
        if not re.fullmatch(r"[a-z]+", release):
            raise NoPackages(f"{release!r} is no name of a release of Debian, such as trixie")
        known = self.run("apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT)", "Created-By: Packages")
        found = [words[0] for words in map(str.split, known.splitlines()) if words[1:] == ["main"]]
        mirror = next((uri for uri in found if "security" not in uri), None)
        if mirror is None:
            raise NoPackages(f"apt-get knows no mirror of Debian that could have {release}")
        (self._lists / "sources.list").write_text(f"deb {mirror} {release} main\n")
        (self._lists / "status").touch()
        return [
            f"Dir::Etc::sourcelist={self._lists}/sources.list",
            "Dir::Etc::sourceparts=/dev/null",
            f"Dir::State::status={self._lists}/status",
        ]

    def download(
        self, package: str, *, choose: Callable[[list[str]], str] | None, without: str, called: str
    ) -> list[Path]:
        """The archives of the package and of what it needs; with newer lists, if those at hand are out of date."""
        for anew in (False, True):
            updated = self._update(anew=anew)
            try:
                name = choose(self._depends(package)) if choose else package
                plan = self.run("apt-get", *self._options, "install", "-qq", "-y", "--reinstall", "--print-uris", name)
                offered = [
                    (each, version, int(size))
                    for each, version, size in OFFERED.findall(plan)
                    if each not in self._bound and not (without and re.fullmatch(without, each))
                ]
                if not offered:
                    raise NoPackages(f"apt-get has no archive of {name}")
                if called:
                    megabytes = sum(size for *_, size in offered) / 1e6
                    say(f"fetching {called} (Debian's packages, about {megabytes:.0f} MB)")
                wanted = [f"{each}={unquote(version)}" for each, version, _ in offered]
                self.run("apt-get", *self._options, "-q", "download", *wanted, cwd=self._archives)
                break
            except NoPackages:
                if updated:
                    raise
        return sorted(self._archives.glob("*.deb"))

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """What the command says. If we are killed it keeps our locks, so that nobody interferes with it."""
        env = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
            pass_fds=self._held,
        )  # fmt: skip
        if done.returncode:
            said = f"{self._troubles}\n{done.stderr}\n{done.stdout}"
            raise NoPackages(f"{command[0]} could not deliver: {_why(done.returncode, said)}")
        return done.stdout + done.stderr

    def _depends(self, package: str) -> list[str]:
        said = self.run("apt-cache", *self._options, "depends", "--no-recommends", "--no-suggests", package)
        return [line.split()[1] for line in said.splitlines() if line.strip().startswith("Depends:")]

    def _update(self, *, anew: bool) -> bool:
        """Bring the lists up to date, unless they are; whether it was this call that did, or tried to."""
        stamp = self._lists / "updated"
        with places.lock(self._lists / "lock") as lock:
            if not anew and stamp.exists() and 0 <= time.time() - stamp.stat().st_mtime < LISTS_LAST:
                return False
            self._held.append(lock.fileno())
            try:
                said = self.run("apt-get", "-q", *self._options, "update")
            finally:
                self._held.pop()
            # apt calls it a success even if it could not reach a single server.
            self._troubles = said
            if re.search(r"^(Get|Hit):", said, re.MULTILINE):
                stamp.touch()
            return True


def say(line: str) -> None:
    """A line for whoever waits."""
    sys.stderr.write(f"orders: {line}\n")
    sys.stderr.flush()


def _why(code: int, said: str) -> str:
    """The one line of a failed command's output that tells most."""
    if code < 0:
        return f"it was ended by signal {-code}; start again"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    full = next((line for line in lines if os.strerror(errno.ENOSPC) in line), None)
    if full:
        return f"{full} (free some space and start again)"
    return next(filter(TELLING.search, lines), lines[-1] if lines else f"it ended with code {code}")


def main(arguments: Sequence[str]) -> None:
    """Print where a package was unpacked: debian.py PACKAGE."""
    try:
        print(unpack(arguments[0]))
    except CannotRun as refusal:
        raise SystemExit(str(refusal)) from None


if __name__ == "__main__":
    main(sys.argv[1:])
