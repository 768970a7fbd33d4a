"""A private RabbitMQ node, from wherever one can be had without an installer."""

import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
from functools import partial
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import quote

from . import CannotRun, debian, other_release, places, processes

USER = "app"
PACKAGE = "rabbitmq-server"
OLDEST = (3, 10)
IMAGE = "rabbitmq:4"
RELEASE = "RABBITMQ_RELEASE"  # the variable that names another release of Debian, whose RabbitMQ is used
UNUSED_THERE = r"(lib)?python3.*|dpkg|tar|passwd|adduser|procps|tzdata|socat"
LOOPBACK_ONLY = "-kernel inet_dist_use_interface {127,0,0,1}"
PORT_TRIES = 3


class NoRabbitMQ(CannotRun):
    """There is no way to get a broker here."""

    code = "no_rabbitmq"


class TooOld(CannotRun):
    """This broker cannot do what we ask of queues."""

    code = "rabbitmq_too_old"


class RabbitMQ:
    """
    One broker node with its data in a folder; the same folder gives the same queues and messages and,
    if they are free, the same ports. It listens on 127.0.0.1 alone and leaves no epmd behind.
    """

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.port = 0
        self.version = ""
        self._claim: IO[str] | None = None
        self._source: Source | None = None

    @property
    def log(self) -> Path:
        return self.home / "rabbitmq.log"

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        return self._source.process if self._source else None

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the node and wait until it takes connections; see `launch` and `await_ready`."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """
        Start the node without waiting for it.

        :raises HomeInUse: if another run uses the same folder
        :raises NoRabbitMQ: if there is no broker to be had; the message says how to get one
        """
        self._claim = places.claim(self.home)
        try:
            with places.tellable(self.home):
                if self._source is None:
                    self._source = find_source(self.home)
                self.port = self._remembered_port()
                self._source.launch(port=self.port, password=self._password, log=self.log)
        except BaseException:
            self.stop()
            raise

    def await_ready(self) -> None:
        """
        Wait until the node takes connections.

        :raises TooOld: if it is a version before 3.10
        :raises NotReady: if the node does not come up
        """
        source = self._source
        assert source is not None, "launch() comes first"
        assert source.process is not None, "launch() comes first"
        try:
            for tries_left in reversed(range(PORT_TRIES)):
                try:
                    processes.await_ready(
                        source.process, self._greeted, name="RabbitMQ", log=self.log, timeout=source.start_timeout
                    )
                    break
                except processes.NotReady:
                    # Between finding a port free and taking it, another program may have taken it: try others.
                    if not tries_left or source.process.poll() is None:
                        raise
                    source.end(by=signal.SIGTERM)
                    for remembered in ("port", "node-ports"):
                        (self.home / remembered).unlink(missing_ok=True)
                    self.port = self._remembered_port()
                    source.launch(port=self.port, password=self._password, log=self.log)
            refuse_old(self.version)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the node in good order. Queues and messages stay."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the node as a power cut would."""
        self._end(signal.SIGKILL)

    def url(self, vhost: str = "/") -> str:
        """The address of a virtual host, as AMQP_URL understands it."""
        return f"amqp://{USER}:{self._password}@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    def add_vhosts(self, *names: str) -> None:
        """Create virtual hosts that our user may use; those that are there stay. One call, as each takes a second."""
        make = ", ".join(
            f'rabbit_vhost:add(<<"{name}">>, <<"{USER}">>), rabbit_auth_backend_internal:set_permissions('
            f'<<"{USER}">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"{USER}">>)'
            for name in names
        )
        self._control("eval", f"{make}.")

    def delete_vhost(self, name: str) -> None:
        """Remove a virtual host with all its queues."""
        self._control("delete_vhost", name)

    def import_definitions(self, path: Path) -> None:
        """Have the node import users and permissions from a file."""
        self._control("import_definitions", str(path))

    def _control(self, *arguments: str) -> None:
        assert self._source is not None, "start() comes first"
        done = self._source.control(*arguments)
        if done.returncode and "already_exists" not in done.stdout + done.stderr:
            raise processes.NotReady(f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}")

    def _end(self, by: signal.Signals) -> None:
        if self._source is not None:
            self._source.end(by=by)
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def _greeted(self) -> bool:
        self.version = greeting(self.port)
        return bool(self.version)

    @property
    def _password(self) -> str:
        return places.kept(self.home / "password", partial(secrets.token_hex, 16))

    def _remembered_port(self) -> int:
        path = self.home / "port"
        port = processes.free_port(preferred=next(iter(places.recall(path)), None))
        path.write_text(str(port))
        return port


class Source(Protocol):
    """A way to run one node."""

    process: subprocess.Popen[bytes] | None
    start_timeout: float

    def launch(self, *, port: int, password: str, log: Path) -> None: ...
    def end(self, *, by: signal.Signals) -> None: ...
    def control(self, *arguments: str) -> subprocess.CompletedProcess[str]: ...


def find_source(home: Path) -> Source:
    """
    The first of: RabbitMQ on the PATH, Debian's packages, a Docker engine.

    :raises NoRabbitMQ: if there is none of them
    """
    release = os.environ.get(RELEASE, "")
    installed = None if release else _installed()
    if installed is not None:
        return Programs(home, sbin=installed, env={"PATH": os.environ.get("PATH", os.defpath)})
    try:
        root = download()
    except debian.NoPackages as refusal:
        if Container.available():
            return Container(home)
        raise NoRabbitMQ(
            "There is no RabbitMQ here. Any one of these gives one:\n"
            "  1. set AMQP_URL to a broker that is running (3.10 or newer);\n"
            "  2. install rabbitmq-server, or run on Debian or Ubuntu with network access, where it is\n"
            "     downloaded and unpacked without root;\n"
            "  3. start a Docker engine that `docker info` can reach.\n"
            f"({refusal})"
        ) from None
    (sbin,) = root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin")
    env = {"PATH": os.environ.get("PATH", os.defpath)} if release else debian.environment(root)
    env["PATH"] = f"{root}/usr/lib/erlang/bin:{env['PATH']}"
    return Programs(home, sbin=sbin, env=env)


def data_of(home: Path) -> Path:
    """Where a node with this home keeps its queues and messages, unless it runs in a container."""
    return places.suitable(home) / "data"


def is_to_be_downloaded() -> bool:
    """Whether `find_source` would download Debian's packages."""
    release = os.environ.get(RELEASE, "")
    return bool(release or _installed() is None) and not debian.is_unpacked(PACKAGE, release=release)


def download() -> Path:
    """
    The folder with Debian's packages of the broker.

    :raises NoPackages: if they are not to be had here
    """
    if release := os.environ.get(RELEASE, ""):
        return debian.unpack(
            PACKAGE, settle=_bring_erlang, called=f"RabbitMQ of {release}", without=UNUSED_THERE, release=release
        )
    return debian.unpack(PACKAGE, settle=_relocate_erlang, called="RabbitMQ")


def greeting(port: int) -> str:
    """The version in a broker's first answer, or nothing if there is none yet."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            answer = connection.recv(4096)
    except OSError:
        return ""
    # In the server's properties: the name, S for a string, its length in four bytes, the string.
    found = re.search(rb"\x07versionS\x00\x00\x00.([0-9.]+)", answer)
    return found[1].decode() if found else ""


def refuse_old(version: str) -> None:
    """
    Let versions from 3.10 on pass.

    :raises TooOld: if it is older
    """
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise TooOld(f"RabbitMQ {version} is too old: 3.10 or newer is needed")


class Programs:
    """RabbitMQ's own programs with ports, folders and an epmd that no other node shares."""

    start_timeout = 180.0

    def __init__(self, home: Path, *, sbin: Path, env: dict[str, str]) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._home = home
        self.sbin = sbin
        self.tools = env
        self._env: dict[str, str] = {}

    def launch(self, *, port: int, password: str, log: Path) -> None:
        for name in ("rabbitmq", "epmd"):
            processes.end_orphan(self._pid_file(name))
        epmd_port, node_port = self._remembered_ports()
        place = places.suitable(self._home)
        node = hashlib.sha256(str(self._home).encode()).hexdigest()[:12]
        (place / "plugins").write_text("[].\n")
        configuration = place / "rabbitmq.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{port}\n"
            f"default_user = {USER}\n"
            f"default_pass = {password}\n"
            "log.console = true\n"
            "log.file = false\n"
        )
        self._env = self.tools | {
            "HOME": str(place),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"orders-{node}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(node_port),
            "RABBITMQ_MNESIA_BASE": str(data_of(self._home)),
            "RABBITMQ_LOG_BASE": str(place / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(configuration),
            "RABBITMQ_CONFIG_FILES": str(place / "conf.d"),
            "RABBITMQ_CONF_ENV_FILE": str(place / "no-environment"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(place / "plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(place / "generated"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": LOOPBACK_ONLY,
            "RABBITMQ_CTL_ERL_ARGS": LOOPBACK_ONLY,
            "RABBITMQ_CTL_DIST_PORT_MIN": "10000",
            "RABBITMQ_CTL_DIST_PORT_MAX": "60000",
            # So that the script becomes the node instead of watching it: one process to end.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
        with log.open("ab") as output:
            # Our own epmd in the foreground; otherwise the node would leave one behind as a daemon.
            epmd = shutil.which("epmd", path=self._env["PATH"]) or "epmd"
            self._epmd = processes.spawn([epmd], env=self._env, output=output, cwd=place)
            processes.remember(self._epmd, self._pid_file("epmd"))
            processes.await_ready(self._epmd, lambda: processes.answers(epmd_port), name="epmd", log=log, timeout=60)
            server = self.sbin / "rabbitmq-server"
            self.process = processes.spawn([server], env=self._env, output=output, cwd=place)
            processes.remember(self.process, self._pid_file("rabbitmq"))

    def end(self, *, by: signal.Signals) -> None:
        for process in filter(None, (self.process, self._epmd)):
            processes.end(process, by=by)
        self.process = self._epmd = None
        for name in ("rabbitmq", "epmd"):
            self._pid_file(name).unlink(missing_ok=True)

    def control(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.sbin / "rabbitmqctl", *arguments],
            env=self._env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=180,
        )  # fmt: skip

    def _pid_file(self, name: str) -> Path:
        return self._home / f"{name}.pid"

    def _remembered_ports(self) -> list[int]:
        path = self._home / "node-ports"
        ports = [processes.free_port(preferred=port) for port in [*places.recall(path), None, None][:2]]
        path.write_text(" ".join(map(str, ports)))
        return ports


class Container:
    """RabbitMQ's official image under a Docker engine, its data in a named volume."""

    start_timeout = 300.0  # the first run pulls the image

    def __init__(self, home: Path) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._name = "orders-" + hashlib.sha256(str(home).encode()).hexdigest()[:12]

    @staticmethod
    def available() -> bool:
        """Whether an engine answers."""
        if shutil.which("docker") is None:
            return False
        return subprocess.run(["docker", "info"], capture_output=True, timeout=30).returncode == 0

    def launch(self, *, port: int, password: str, log: Path) -> None:
        self._remove()  # of a run that was killed; the volume stays
        with log.open("ab") as output:
            self.process = processes.spawn(
                [
                    "docker", "run", "--rm", "--name", self._name, "--hostname", "orders",
                    "--publish", f"127.0.0.1:{port}:5672", "--volume", f"{self._name}:/var/lib/rabbitmq",
                    "--env", f"RABBITMQ_DEFAULT_USER={USER}", "--env", "RABBITMQ_DEFAULT_PASS", IMAGE,
                ],
                env=os.environ | {"RABBITMQ_DEFAULT_PASS": password},
                output=output,
            )  # fmt: skip

    def end(self, *, by: signal.Signals) -> None:
        if self.process is None:
            return
        if by == signal.SIGKILL:
            self._remove()  # killing the client would leave the container alone
        processes.end(self.process)
        self.process = None
        self._remove()

    def control(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "exec", self._name, "rabbitmqctl", *arguments],
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip

    def _remove(self) -> None:
        subprocess.run(["docker", "rm", "--force", self._name], capture_output=True, timeout=60)


def _installed() -> Path | None:
    """The folder of an installed RabbitMQ's programs; not of Debian's wrappers, which insist on a user."""
    program = shutil.which("rabbitmq-server")
    if program is None:
        return None
    folder = Path(program).resolve().parent
    if (folder / "rabbitmq-script-wrapper").exists():
        return (folder / "rabbitmq-server").resolve().parent
    return folder


def _relocate_erlang(unpacked: Path, final: Path) -> None:
    """Erlang's scripts name the folder they expect to lie in."""
    for script in unpacked.glob("usr/lib/erlang/**/bin/*"):
        if script.is_symlink() or not script.is_file() or not script.read_bytes().startswith(b"#!"):
            continue
        text = script.read_text()
        processes.write_program(script, text.replace("=/usr/lib/erlang", f"={final}/usr/lib/erlang"))


def _bring_erlang(unpacked: Path, final: Path) -> None:
    """Another release's Erlang needs that release's C library, too."""
    _relocate_erlang(unpacked, final)
    other_release.use_own_libraries(unpacked, final, under="usr/lib/erlang")
