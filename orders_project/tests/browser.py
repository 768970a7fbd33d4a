"""A headless Chromium: the system's own, or Debian's, unpacked into the cache without root."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from orders_project.embedded import debian

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--no-first-run", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def provide() -> tuple[Path, dict[str, str]]:
    """
    The browser's program, and the variables it needs.

    :raises NoPackages: if it is not installed and can't be had
    """
    installed = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if installed:
        return Path(installed), {}
    root = debian.unpack("chromium")
    folders = sorted({str(library.parent) for library in root.glob("**/lib/**/*.so*")})
    env = {"LD_LIBRARY_PATH": os.pathsep.join(folders)}
    if not Path("/etc/fonts/fonts.conf").exists():
        env |= {"FONTCONFIG_FILE": str(_fonts(root))}
    return root / "usr/lib/chromium/chromium", env


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
