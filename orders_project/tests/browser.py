"""A headless Chromium, if possible its shell: the system's own, or Debian's, unpacked into the cache without root."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from orders_project.embedded import debian

PACKAGES = ("chromium-headless-shell", "chromium")  # the first takes two thirds of the time: it has no windows to draw
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--no-first-run", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def provide() -> tuple[Path, dict[str, str]]:
    """
    The browser's program, and the variables it needs.

    :raises NoPackages: if it is not installed and can't be had
    """
    installed = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PACKAGES)), None)
    if installed:
        return Path(installed), {}
    name, root = _unpacked()
    folders = sorted({str(library.parent) for library in root.glob("**/lib/**/*.so*")})
    env = {"LD_LIBRARY_PATH": os.pathsep.join(folders)}
    if not Path("/etc/fonts/fonts.conf").exists():
        env |= {"FONTCONFIG_FILE": str(_fonts(root))}
    return root / "usr/lib/chromium" / name, env


def _unpacked() -> tuple[str, Path]:
    """The name of the first package that can be had, and where it lies."""
    *others, last = PACKAGES
    for name in others:
        with contextlib.suppress(debian.NoPackages):
            return name, debian.unpack(name)
    return last, debian.unpack(last)


def _fonts(root: Path) -> Path:
    """A font configuration that knows the unpacked fonts, on a system without any."""
    path = root / "fonts.conf"
    path.write_text(
        f"<fontconfig><dir>{root}/usr/share/fonts</dir><cachedir>{root}/var/cache/fontconfig</cachedir></fontconfig>"
    )
    return path


@contextmanager
def browser() -> Iterator[Any]:
    """A running Chromium."""
    program, env = provide()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(program), args=list(FLAGS), env={**os.environ, **env})
        try:
            yield chromium
        finally:
            chromium.close()
