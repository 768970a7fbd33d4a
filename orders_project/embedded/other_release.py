"""
Programs of a newer release of Debian, run beside the older C library of this system.

# Note [Each with its own loader]: a program finds its C library by the loader whose path stands in it. So a script
takes its place, which calls the loader of the other release with the libraries of that release. LD_LIBRARY_PATH would
be inherited: the system's own programs (a shell, sed) would load the other C library into the loader of this one.
"""

import os
import platform
import shlex
from pathlib import Path

from . import CannotRun, processes

ELF = b"\x7fELF"
LOADERS = {"x86_64": "usr/lib64/ld-linux-x86-64.so.2", "aarch64": "usr/lib/ld-linux-aarch64.so.1"}


class NoLoader(CannotRun):
    """Programs of another release cannot be run on such a machine."""

    code = "no_loader"


def use_own_libraries(unpacked: Path, final: Path, *, under: str) -> None:
    """
    Put a script in the place of each program below a folder, which runs it with the libraries that were unpacked.

    :param final: where the folder `unpacked` is going to be
    :raises NoLoader: if there is none for this machine's processor
    """
    loader = LOADERS.get(platform.machine(), "")
    if not (loader and (unpacked / loader).exists()):
        raise NoLoader(f"no loader for {platform.machine()} among the packages")
    libraries = [final / folder.relative_to(unpacked) for folder in unpacked.glob("usr/lib/*-linux-gnu")]
    for program in sorted((unpacked / under).rglob("*")):
        if program.is_symlink() or not (program.is_file() and os.access(program, os.X_OK)) or ".so" in program.name:
            continue
        with program.open("rb") as content:
            if content.read(len(ELF)) != ELF:
                continue
        kept = program.rename(program.with_name(f".{program.name}"))
        words = [
            "exec", final / loader, "--library-path", os.pathsep.join(map(str, libraries)), "--argv0",
        ]  # fmt: skip
        command = " ".join(shlex.quote(str(word)) for word in words)
        kept_there = shlex.quote(str(final / kept.relative_to(unpacked)))
        processes.write_program(program, f'#!/bin/sh\n{command} "$0" {kept_there} "$@"\n')
