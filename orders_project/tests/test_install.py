"""requirements/bootstrap, run in scratch clones against an index of tiny wheels on loopback."""

import ast
import base64
import functools
import hashlib
import http.server
import importlib.metadata
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

PROJECT = Path(__file__).resolve().parents[2]
PIP = f"pip-{importlib.metadata.version('pip')}-py3-none-any.whl"
UV = f"uv-{importlib.metadata.version('uv')}-py3-none-any.whl"


class Index(http.server.ThreadingHTTPServer):
    """A package index (PEP 503) of the wheels in a folder, on loopback."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.folder = folder
        self.yanked: set[str] = set()
        self.held = ""  # the start of the file's name that is not answered before `go_on`
        self.asked, self.go_on = threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/simple"

    def wheel(self, name: str, version: str, *, tag: str = "py3-none-any", needs: str = "", extra: str = "") -> Path:
        """Make a wheel with one module that knows its version; `extra` is one name of an extra with what it needs."""
        lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
        lines += [f"Requires-Dist: {needs}"] if needs else []
        if extra:
            called, needed = extra.split()
            lines += [f"Provides-Extra: {called}", f'Requires-Dist: {needed}; extra == "{called}"']
        info = f"{name}-{version}.dist-info"
        return pack(
            self.folder / f"{name}-{version}-{tag}.whl",
            {
                f"{name}.py": f"version = {version!r}\n".encode(),
                f"{info}/METADATA": "\n".join([*lines, ""]).encode(),
                f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
            },
        )

    def page(self, name: str) -> str:
        links = ""
        for wheel in sorted(self.folder.glob(f"{name}-*.whl")):
            yanked = " data-yanked=broken" if wheel.name in self.yanked else ""
            links += f'<a href="/files/{wheel.name}#sha256={sha256(wheel)}"{yanked}>{wheel.name}</a>\n'
        return links

    def hold(self, name: str) -> None:
        """Do not answer who asks for this file, before `let_go`."""
        self.asked.clear()
        self.go_on.clear()
        self.held = name

    def let_go(self) -> None:
        self.held = ""
        self.go_on.set()


class Page(http.server.BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        name = self.path.rstrip("/").rpartition("/")[2]
        files = self.path.startswith("/files/")
        if files and self.server.held and name.startswith(self.server.held):
            self.server.asked.set()
            self.server.go_on.wait(300)
        body = (self.server.folder / name).read_bytes() if files else self.server.page(name).encode()
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", "application/octet-stream" if files else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def pack(wheel: Path, files: dict[str, bytes]) -> Path:
    """Write these files, and the record of them, as a wheel."""
    info = next(name.split("/")[0] for name in files if name.endswith("/METADATA"))
    record = []
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(content)}")
            inside = zipfile.ZipInfo(name)
            # Without the kind of file pip takes none for a program.
            inside.external_attr = (stat.S_IFREG | (0o755 if "/scripts/" in name else 0o644)) << 16
            archive.writestr(inside, content)
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]))
    return wheel


def packed_again(name: str, wheel: Path) -> Path:
    """The wheel of a distribution that is installed here, so that no network is needed to have one."""
    here = importlib.metadata.distribution(name)
    generated = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"}
    kept = {}
    for file in here.files or ():
        path = str(file)
        if file.suffix == ".pyc" or (file.name in generated and ".dist-info" in path):
            continue
        if file.parts[-2] == "bin" and path.startswith(".."):
            if not here.entry_points:
                kept[f"{name}-{here.version}.data/scripts/{file.name}"] = Path(str(file.locate())).read_bytes()
        else:
            kept[path] = Path(str(file.locate())).read_bytes()
    return pack(wheel, kept)


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def locked(*wheels: Path) -> str:
    """The text of a lock of exactly these wheels."""
    return "".join("{}=={} --hash=sha256:{}\n".format(*wheel.name.split("-")[:2], sha256(wheel)) for wheel in wheels)


class Clone:
    """The real bootstrap in a folder of its own, with sets of requirements of its own."""

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index = folder, index
        (folder / "requirements").mkdir(parents=True)
        shutil.copy(PROJECT / "requirements" / "bootstrap", folder / "requirements")
        # Where this Python has no ensurepip, pip comes from Debian's package; here is one as if unpacked.
        (folder / "orders_project" / "embedded").mkdir(parents=True)
        wheels = folder / "unpacked" / "usr" / "share" / "python-wheels"
        wheels.mkdir(parents=True)
        (wheels / PIP).hardlink_to(index.folder / PIP)
        (folder / "orders_project" / "embedded" / "debian.py").write_text(f"print({str(folder / 'unpacked')!r})")
        self.lock(uv=[index.folder / UV], pip=[index.folder / PIP])

    def lock(self, **sets: list[Path]) -> None:
        for name, wheels in sets.items():
            (self.folder / "requirements" / f"{name}.txt").write_text(locked(*wheels))

    def command(self, *sets: str, **environment: str) -> tuple[list[str], dict[str, str]]:
        home = self.index.folder.parent / "home"
        home.mkdir(exist_ok=True)
        return [str(self.folder / "requirements" / "bootstrap"), *sets], {
            "PATH": os.environ["PATH"],
            "PYTHON": sys.executable,
            "HOME": str(home),
            "PIP_INDEX_URL": self.index.url,
            "PIP_CONFIG_FILE": os.devnull,
            "UV_NO_CONFIG": "1",
            "NO_PROXY": "127.0.0.1",
            **environment,
        }

    def bootstrap(self, *sets: str, **environment: str) -> str:
        """What it says; it has to succeed."""
        command, env = self.command(*sets, **environment)
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + self.log
        return done.stderr

    def refused(self, *sets: str, before: str = 'exec "$@"', **environment: str) -> str:
        """The line with which it gives up after a piece of shell; only the steps may be said before it."""
        command, env = self.command(*sets, **environment)
        command = ["bash", "-c", before, "-", *command]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        *steps, last = done.stderr.splitlines()
        assert all(re.match("orders: (making|installing) ", step) for step in steps), done.stderr
        assert last.startswith("orders: "), done.stderr
        return last

    @property
    def log(self) -> str:
        log = self.folder / ".cache" / "bootstrap.log"
        return log.read_text() if log.exists() else ""

    def has(self) -> dict[str, str]:
        """The versions that are installed, but for the installers' own."""
        script = "import importlib.metadata as m; print(*(f'{d.name}={d.version}' for d in m.distributions()))"
        done = subprocess.run(
            [self.folder / ".venv" / "bin" / "python", "-Ic", script], capture_output=True, text=True, check=True
        )
        found = dict(word.split("=") for word in done.stdout.split())
        return {name: version for name, version in found.items() if name not in ("uv", "pip")}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index that has moved on since the lock was written: newer releases of everything, one of them yanked."""
    folder = tmp_path_factory.mktemp("index") / "wheels"
    folder.mkdir()
    packed_again("uv", folder / UV)
    packed_again("pip", folder / PIP)
    with Index(folder) as serving:
        for version in ("1.0", "1.1", "2.0"):
            serving.wheel("cov", version, extra="toml tomlish>=1.0")
            serving.wheel("plugin", version, needs="cov[toml]>=1.0")
            serving.wheel("tomlish", version)
            serving.wheel("stray", version)
        serving.yanked = {"tomlish-1.0-py3-none-any.whl", "tomlish-2.0-py3-none-any.whl"}
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving
        serving.go_on.set()
        serving.shutdown()


def wheels(index: Index, *names: str) -> list[Path]:
    return [index.folder / f"{name}-py3-none-any.whl" for name in names]


@pytest.fixture(scope="module")
def one_clone(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return Clone(tmp_path_factory.mktemp("one") / "a clone", index)


def with_standard_sets(clone: Clone) -> Clone:
    clone.lock(
        base=wheels(clone.index, "cov-1.0"),
        dev=wheels(clone.index, "plugin-1.0", "tomlish-1.0"),
        postgres=wheels(clone.index, "stray-1.1"),
    )
    return clone


NOWHERE = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"}
STANDARD = {"cov": "1.0", "plugin": "1.0", "tomlish": "1.0"}


@pytest.fixture
def clone(one_clone: Clone) -> Clone:
    """A clone where base and dev are installed, in a folder with a space in its name."""
    with_standard_sets(one_clone)
    for mark in (one_clone.folder / ".venv").glob("installed-postgres"):
        mark.unlink()
        (one_clone.folder / ".venv" / "installed-base").unlink()
    assert "pip installs" not in one_clone.bootstrap("base", "dev")
    assert one_clone.has() == STANDARD
    return one_clone


class TestWhatIsInstalled:
    def test_is_what_the_lock_says_whatever_was_released_since(self, clone: Clone) -> None:
        clone.lock(base=wheels(clone.index, "cov-1.1"), dev=wheels(clone.index, "plugin-1.1", "tomlish-1.1"))
        clone.bootstrap("base", "dev")
        assert clone.has() == {"cov": "1.1", "plugin": "1.1", "tomlish": "1.1"}

    def test_is_what_pip_installs_where_no_uv_fits(self, index: Index, tmp_path: Path) -> None:
        clone = with_standard_sets(Clone(tmp_path / "a clone", index))
        foreign = index.wheel("uv", "0.0.1", tag="py3-none-win_arm64")
        clone.lock(uv=[foreign])
        assert "pip installs" in clone.bootstrap("base", "dev", "postgres")
        assert clone.has() == STANDARD | {"stray": "1.1"}
        (clone.folder / ".venv" / "installed-postgres").unlink()
        clone.lock(base=wheels(index, "cov-1.1"))
        clone.bootstrap("base")
        assert clone.has() == STANDARD | {"cov": "1.1"}
        clone.lock(base=[index.wheel("cov", "3.0", tag="py3-none-win_arm64")])
        assert "cov==3.0 has no build" in clone.refused("base")

    def test_loses_what_is_in_no_lock(self, clone: Clone) -> None:
        clone.lock(dev=wheels(clone.index, "stray-1.0"))
        clone.bootstrap("dev")
        assert clone.has() == {"cov": "1.0", "stray": "1.0"}

    def test_keeps_the_other_sets(self, clone: Clone) -> None:
        clone.bootstrap("postgres")
        assert clone.has() == STANDARD | {"stray": "1.1"}
        clone.lock(base=wheels(clone.index, "cov-1.1"))
        clone.bootstrap("base")
        assert clone.has() == STANDARD | {"stray": "1.1", "cov": "1.1"}

    def test_is_not_asked_for_again(self, clone: Clone) -> None:
        assert clone.bootstrap("base", PIP_INDEX_URL="http://127.0.0.1:9/", PYTHON="/nowhere") == ""


class TestWhatGoesWrong:
    def test_a_changed_file_is_refused(self, clone: Clone) -> None:
        kept = clone.index.wheel("changed", "1.0")
        clone.lock(base=[kept])
        original = kept.read_bytes()
        clone.index.wheel("changed", "1.0", needs="malice")
        assert "changed==1.0 is not the file that is locked" in clone.refused("base")
        assert clone.has() == STANDARD
        kept.write_bytes(original)
        clone.bootstrap("base")
        assert clone.has()["changed"] == "1.0"

    def test_a_package_for_other_machines_is_named(self, clone: Clone) -> None:
        clone.lock(base=[clone.index.wheel("native", "1.0", tag="py3-none-win_arm64")])
        assert "native==1.0 has no build for" in clone.refused("base")
        assert clone.has() == STANDARD

    def test_no_network_leaves_all_as_it_was(self, clone: Clone) -> None:
        clone.lock(base=wheels(clone.index, "cov-2.0"))
        assert "cannot be reached" in clone.refused("base", **NOWHERE)
        with_standard_sets(clone)
        assert clone.bootstrap("base", "dev", **NOWHERE) == ""

    def test_an_environment_of_another_python_is_made_anew_once_there_are_network_and_space(self, clone: Clone) -> None:
        library = next((clone.folder / ".venv").glob("lib/python*"))
        library.rename(library.with_name("python3.1"))
        assert "cannot be reached" in clone.refused("base", "dev", **NOWHERE)
        assert "the disk is full" in clone.refused("base", "dev", before='ulimit -f 8000; exec "$@"')
        clone.bootstrap("base", "dev")
        assert clone.has() == STANDARD

    def test_a_moved_clone_gets_an_environment_of_its_own(self, clone: Clone) -> None:
        clone.folder = clone.folder.rename(clone.folder.with_name("moved here"))
        clone.bootstrap("base", "dev")
        assert clone.has() == STANDARD
        assert str(clone.folder) in (clone.folder / ".venv" / "bin" / "activate").read_text()

    def test_a_folder_that_may_not_be_written(self, index: Index) -> None:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
            os.chmod(scratch, 0o755)  # noqa: S103 (root becomes somebody else, who has to come in)
            clone = with_standard_sets(Clone(Path(scratch) / "clone", index))
            clone.folder.chmod(0o555)
            become = "setpriv --reuid=65534 --regid=65534 --clear-groups" if os.getuid() == 0 else "exec"
            assert "may not write in" in clone.refused("base", before=f'cd / && {become} "$@"')

    def test_a_killed_installation_is_made_anew(self, clone: Clone) -> None:
        clone.index.wheel("held", "1.0")
        clone.lock(base=wheels(clone.index, "cov-1.0", "held-1.0"))
        clone.index.hold("held-1.0")
        command, env = clone.command("base")
        with subprocess.Popen(command, env=env, start_new_session=True) as running:
            assert clone.index.asked.wait(300)
            os.killpg(running.pid, signal.SIGKILL)
        clone.index.let_go()
        # As if it had come to unpacking: a package that says it is there, and is not.
        next((clone.folder / ".venv").glob("lib/python*/site-packages/cov.py")).unlink()
        clone.bootstrap("base")
        assert clone.has() == STANDARD | {"held": "1.0"}
        script = "import cov, held"
        subprocess.run([clone.folder / ".venv" / "bin" / "python", "-c", script], check=True)

    def test_two_at_once_install_once(self, clone: Clone) -> None:
        clone.lock(base=wheels(clone.index, "cov-1.1"))
        command, env = clone.command("base", "dev")
        both = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        said = "".join(each.communicate()[1] for each in both)
        assert [each.returncode for each in both] == [0, 0], said
        assert said.count("installing") == 1
        assert clone.has() == STANDARD | {"cov": "1.1"}


class TestWhatIsFetchedMeanwhile:
    def module(self, clone: Clone, text: str) -> None:
        (clone.folder / "orders_project" / "embedded" / "prefetch.py").write_text(text)

    def test_is_waited_for_and_may_fail(self, clone: Clone) -> None:
        self.module(clone, "import time; print('fetching', flush=True); open('fetched', 'w').close(); 1 / 0")
        clone.lock(base=wheels(clone.index, "cov-1.1"))
        clone.bootstrap("base")
        assert (clone.folder / "fetched").exists()
        (clone.folder / "fetched").unlink()
        clone.bootstrap("base")
        clone.bootstrap("postgres")
        assert not (clone.folder / "fetched").exists()

    def test_ends_with_ctrl_c(self, clone: Clone, tmp_path: Path) -> None:
        clone.index.wheel("slow", "1.0")
        clone.lock(base=wheels(clone.index, "slow-1.0"))
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        self.module(clone, f"import time; held = open({str(pipe)!r}, 'w'); time.sleep(900)")
        clone.index.hold("slow-1.0")
        command, env = clone.command("base")
        # A run that was itself started in the background ignores Ctrl-C, and so would all that it starts.
        command = ["env", "--default-signal=INT", *command]
        with subprocess.Popen(command, env=env, start_new_session=True) as running:
            with pipe.open() as end:  # which waits for the module to open it
                assert clone.index.asked.wait(300)
                os.killpg(running.pid, signal.SIGINT)
                assert end.read() == ""  # ends when the last process that can write has ended
            assert running.wait() == 130
        clone.index.let_go()


DEV_TOOLS = {PROJECT / "orders_project" / "translations.py"}  # for Babel, which calls it


class TestWhatIsImported:
    """Every import is declared in an .in file, and none works only because something else brings it along."""

    def test_is_declared(self) -> None:
        for folder in PROJECT.glob("[!.]*/"):
            for file in folder.rglob("*.py"):
                for_tests = (
                    folder.name in ("benchmarks", "docs")
                    or "tests" in file.relative_to(PROJECT).parts
                    or file in DEV_TOOLS
                )
                allowed = declared("base") | declared("dev") if for_tests else declared("base")
                for module in imported(file):
                    assert owner(module) in {None, *allowed}, f"{file} imports {module}, of {owner(module)}"


@functools.cache
def declared(name: str) -> frozenset[str]:
    lines = (PROJECT / "requirements" / f"{name}.in").read_text().splitlines()
    return frozenset(re.split(r"[^\w.-]", line)[0].lower() for line in lines if line[:1] not in ("", "#", "-"))


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{name.name}" for name in node.names)


@functools.cache
def owner(module: str) -> str | None:
    """The distribution that brings this module, by its name in requirements; None for Python's and our own."""
    top = module.partition(".")[0]
    owners = set(providers().get(top, ()))
    if top in sys.stdlib_module_names or not owners:
        return None
    while len(owners) > 1 and module:  # parts of one namespace come from several
        path = module.replace(".", "/")
        having = {name for name in owners if any(f"{path}{end}" in files(name) for end in (".py", "/__init__.py"))}
        owners, module = having or owners, module.rpartition(".")[0]
    return re.sub(r"[-_.]+", "-", owners.pop()).lower()


@functools.cache
def providers() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@functools.cache
def files(distribution: str) -> frozenset[str]:
    return frozenset(str(file) for file in importlib.metadata.files(distribution) or ())
