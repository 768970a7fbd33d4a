"""Debian's packages without root: downloaded with what they depend on and unpacked into the cache."""

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from . import CannotRun, places

# The C library belongs to the system's own loader: a newer copy beside it would not run.
BOUND_TO_THE_SYSTEM = {"libc6", "libc-bin"}


class NoPackages(CannotRun):
    """The package cannot be had from here."""

    code = "no_packages"


def unpack(package: str, *, into: Path | None = None, settle: Callable[[Path, Path], None] | None = None) -> Path:
    """
    The folder that holds this package and everything it needs that the system lacks.

    The first call downloads it, later calls find it. Calls that race wait for each other, and the folder
    appears whole or not at all.

    :param into: a folder for unpacked packages; by default one in the cache, by system and architecture
    :param settle: called as settle(unpacked, final) before the folder takes its final place
    :raises NoPackages: if there is no apt here, or it cannot deliver
    """
    shelf = places.suitable(into or places.cache() / _system())
    final = shelf / package
    if final.exists():
        return final
    if not all(map(shutil.which, ("apt-get", "dpkg"))):
        raise NoPackages(f"no apt-get here to download {package} with")
    with places.lock(shelf / ".lock"):
        if final.exists():
            return final
        with tempfile.TemporaryDirectory(dir=shelf, prefix=f".{package}-") as scratch:
            unpacked = Path(scratch) / "root"
            for archive in _download(package, Path(scratch)):
                _run("dpkg", "-x", archive, unpacked)
            if settle is not None:
                settle(unpacked, final)
            unpacked.chmod(0o755)
            unpacked.rename(final)
    return final


def environment(root: Path) -> dict[str, str]:
    """PATH and LD_LIBRARY_PATH with which the programs of an unpacked package find each other."""
    programs = [root / "usr/sbin", root / "usr/bin", root / "sbin", root / "bin"]
    libraries = [folder for parent in ("usr/lib", "lib") for folder in sorted(root.glob(f"{parent}/*-linux-*"))]
    return {
        "PATH": os.pathsep.join([*map(str, programs), os.environ.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, [*libraries, root / "usr/lib", root / "lib"])),
    }


def _system() -> str:
    names = ["linux", ""]
    with contextlib.suppress(OSError):
        release = platform.freedesktop_os_release()
        names = [release.get("ID", "linux"), release.get("VERSION_ID", "")]
    return "-".join(filter(None, [*names, platform.machine()]))


def _download(package: str, scratch: Path) -> list[Path]:
    for folder in ("lists/partial", "cache/archives/partial", "archives"):
        (scratch / folder).mkdir(parents=True)
    options = [
        f"Dir::State::lists={scratch}/lists",
        f"Dir::Cache={scratch}/cache",
        "Debug::NoLocking=1",  # the system's locks are not ours to take; we hold our own
        "APT::Sandbox::User=root",  # the sandbox's user could not enter the scratch folder
        "APT::Install-Recommends=0",
        "Acquire::Retries=2",
        "Acquire::http::Timeout=20",
    ]
    apt = ["apt-get", "-q", *(word for option in options for word in ("-o", option))]
    _run(*apt, "update")
    plan = [line.split() for line in _run(*apt, "install", "-s", package).splitlines()]
    wanted = [
        f"{name}={words[0].lstrip('(')}"
        for verb, name, *words in (_without_installed_version(line) for line in plan if len(line) > 2)
        if verb == "Inst" and name not in BOUND_TO_THE_SYSTEM
    ]
    if not wanted:
        raise NoPackages(f"{package} is installed here already; use the system's own")
    _run(*apt, "download", *wanted, cwd=scratch / "archives")
    return sorted((scratch / "archives").glob("*.deb"))


def _without_installed_version(line: list[str]) -> list[str]:
    """Of `Inst name [installed] (candidate …)`, all but the installed version."""
    return [word for position, word in enumerate(line) if not (position == 2 and word.startswith("["))]


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    env = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        raise NoPackages(f"{command[0]} could not deliver:\n{said}")
    return done.stdout


if __name__ == "__main__":
    try:
        print(unpack(sys.argv[1]))
    except CannotRun as refusal:
        raise SystemExit(str(refusal)) from None
