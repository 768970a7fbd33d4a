"""Programs of another release run with the loader and the libraries that came with them."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from orders_project.embedded import debian, other_release, processes

pytestmark = pytest.mark.processes


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """A program, a script and what the program is linked with, where packages would have put them."""
    root = tmp_path / "root"
    program = root / "usr/lib/thing/bin/print"
    program.parent.mkdir(parents=True)
    shutil.copy(str(shutil.which("printf")), program)
    script = program.with_name("script")
    processes.write_program(script, "#!/bin/sh\nexit 3\n")
    libraries = root / f"usr/lib/{platform.machine()}-linux-gnu"
    libraries.mkdir()
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for path in map(Path, re.findall(r"(/\S+)", said)):
        loader = root / other_release.LOADERS[platform.machine()]
        loader.parent.mkdir(exist_ok=True)
        shutil.copy(path, loader if "ld-linux" in path.name else libraries)
    return root


@pytest.mark.skipif(platform.machine() not in other_release.LOADERS, reason="a processor without a known loader")
def test_a_program_is_run_by_its_own_loader(unpacked: Path, tmp_path: Path) -> None:
    final = tmp_path / "a final place"
    other_release.use_own_libraries(unpacked, final, under="usr/lib/thing")
    unpacked.rename(final)
    program = final / "usr/lib/thing/bin/print"
    assert str(final / other_release.LOADERS[platform.machine()]) in program.read_text()
    done = subprocess.run([program, "%s|", "a b", "c"], capture_output=True, text=True, check=True)
    assert done.stdout == "a b|c|"
    assert subprocess.run([program.with_name("script")], check=False).returncode == 3


def test_without_a_loader_it_says_so(unpacked: Path) -> None:
    (unpacked / other_release.LOADERS[platform.machine()]).unlink()
    with pytest.raises(other_release.NoLoader, match="no loader for"):
        other_release.use_own_libraries(unpacked, unpacked, under="usr/lib/thing")


def test_what_is_no_release_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(debian.NoPackages, match=r"^'4\.2' is no name of a release of Debian, such as trixie$"):
        debian.unpack("rabbitmq-server", into=tmp_path, release="4.2")
