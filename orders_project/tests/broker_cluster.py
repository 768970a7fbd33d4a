"""Three nodes of RabbitMQ on this machine that are one cluster: each can be killed, frozen, cut off and restarted."""

import secrets
import shutil
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from orders_project.embedded import places, processes, rabbitmq

from .process_tree import FailingServer

PASSWORD = secrets.token_hex(16)
GRACE = 20  # seconds
TICK = 10  # seconds in which a node notices that another one is silent
CONFIGURATION = f"""
default_user = app
default_pass = {PASSWORD}
log.console = true
log.file = false
cluster_partition_handling = pause_minority
queue_leader_locator = balanced
cluster_formation.peer_discovery_backend = classic_config
"""


class Refused(RuntimeError):
    """What rabbitmqctl says if it cannot do something."""


class Node(FailingServer):
    """One node; its data stay when it ends. One that leads streams may not come to an end by itself (3.10)."""

    grace = GRACE

    def __init__(self, cluster: "Cluster", name: str) -> None:
        super().__init__()
        self.cluster, self.name, self.full_name = cluster, name, f"{name}@localhost"
        self.home = cluster.home / name
        self.home.mkdir()
        self.port, self._link = processes.free_port(), processes.free_port()

    @property
    def url(self) -> str:
        return f"amqp://app:{PASSWORD}@127.0.0.1:{self.port}/%2F"

    @property
    def log(self) -> Path:
        return self.home / "rabbitmq.log"

    def launch(self) -> None:
        lines = [f"listeners.tcp.1 = 127.0.0.1:{self.port}", CONFIGURATION]
        # The first one waits for nobody, the others join it: all at once would wait a minute for each other's locks.
        known = {self.cluster.nodes[0].full_name, self.full_name}
        lines += [f"cluster_formation.classic_config.nodes.{n} = {name}" for n, name in enumerate(sorted(known), 1)]
        (self.home / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.home / "plugins").write_text("[].\n")
        with self.log.open("ab") as output:
            self._process = processes.spawn(
                [self.cluster.sbin / "rabbitmq-server"], env=self._environment(), output=output, cwd=self.home
            )

    def await_ready(self) -> None:
        """Wait until it takes connections, as a member of the cluster."""
        assert self._process is not None
        processes.await_ready(
            self._process, lambda: bool(rabbitmq.greeting(self.port)), name=self.name, log=self.log, timeout=240
        )

    def start(self) -> None:
        self.launch()
        self.await_ready()

    def cut_off(self) -> float:
        """
        Have it refuse, and be refused by, all other nodes: what clients send still arrives.

        Returns when that was, in seconds of `time.monotonic()`: rabbitmqctl takes many to start and to end.
        """
        each = "[begin erlang:set_cookie(N, nobody), erlang:disconnect_node(N) end || N <- nodes()]"
        said = self.control("eval", f"begin {each}, erlang:system_time(millisecond) end.")
        return time.monotonic() - (time.time() - int(said) / 1000)

    def join_again(self) -> None:
        others = ", ".join(f"'{node.full_name}'" for node in self.cluster.nodes if node is not self)
        self.control("eval", f"[erlang:set_cookie(N, erlang:get_cookie()) || N <- [{others}]].")

    def control(self, *arguments: str) -> str:
        """
        Run rabbitmqctl; what it says.

        :raises Refused: if the node is not there, or is starting
        """
        done = subprocess.run(
            [self.cluster.sbin / "rabbitmqctl", "-q", *arguments],
            env=self._environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=180,
        )  # fmt: skip
        if done.returncode:
            raise Refused(done.stdout + done.stderr)
        return done.stdout

    def _environment(self) -> dict[str, str]:
        home = self.home
        loopback = f"{rabbitmq.LOOPBACK_ONLY} -kernel net_ticktime {TICK}"
        return self.cluster.environment | {
            "RABBITMQ_NODENAME": self.full_name,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self._link),
            "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(home / "conf.d"),
            "RABBITMQ_CONF_ENV_FILE": str(home / "no-environment"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "generated"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": loopback,
            "RABBITMQ_CTL_ERL_ARGS": rabbitmq.LOOPBACK_ONLY,
            "RUNNING_UNDER_SYSTEMD": "true",
        }


class Cluster:
    """Nodes that share one cookie and one epmd; all run on entering."""

    def __init__(self, number: int = 3) -> None:
        """:raises NoRabbitMQ: if there are no programs of RabbitMQ here"""
        self.home = places.suitable(places.scratch("brokers"))
        source = rabbitmq.find_source(self.home)
        if not isinstance(source, rabbitmq.Programs):
            raise rabbitmq.NoRabbitMQ("a cluster needs RabbitMQ's own programs, not an image")
        self.sbin = source.sbin
        self._epmd_port = processes.free_port()
        cookie = self.home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(10))
        cookie.chmod(0o400)
        self.environment = source.tools | {
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        self.nodes = [Node(self, f"rabbit{number}") for number in range(1, number + 1)]
        self._end = ExitStack()

    @property
    def url(self) -> str:
        """The nodes as AMQP_URL names them."""
        return ";".join(node.url for node in self.nodes)

    def leader_of(self, queue: str) -> Node:
        """The node that leads this queue, as the first node says."""
        lines = self.nodes[0].control("list_queues", "--no-table-headers", "name", "leader").splitlines()
        return self._named(dict(line.split() for line in lines if len(line.split()) == 2)[queue])

    def is_whole(self) -> bool:
        """
        Whether each quorum queue has all of its members, so that another node may be lost.

        All nodes have to say so: one that was frozen does not know yet what it has missed.
        """
        return all(map(self._is_whole_for, reversed(self.nodes)))

    def _is_whole_for(self, asked: Node) -> bool:
        try:
            said = asked.control("list_queues", "--no-table-headers", "type", "members", "online")
        except Refused:  # it was frozen or cut off, and starts anew
            return False
        lines = said.splitlines()
        queues = [line.split("\t") for line in lines if line.startswith("quorum\t")]
        return bool(queues) and all(
            all(node.full_name in members and node.full_name in online for node in self.nodes)
            for _, members, online in queues
        )

    def busiest(self) -> Node:
        """The node that most clients are connected to, as the first node says."""
        lines = self.nodes[0].control("list_connections", "--no-table-headers", "port").splitlines()
        ((port, _),) = Counter(filter(None, map(str.strip, lines))).most_common(1)
        return next(node for node in self.nodes if node.port == int(port))

    def _named(self, full_name: str) -> Node:
        return next(node for node in self.nodes if node.full_name == full_name)

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(places.forget, self.home)
            with (self.home / "epmd.log").open("ab") as output:
                program = shutil.which("epmd", path=self.environment["PATH"]) or "epmd"
                epmd = processes.spawn([program], env=self.environment, output=output, cwd=self.home)
            undo.callback(processes.end, epmd)
            processes.await_ready(
                epmd, lambda: processes.answers(self._epmd_port), name="epmd", log=self.home / "epmd.log", timeout=60
            )
            undo.callback(self._stop)
            first, *others = self.nodes
            first.start()
            for node in others:
                node.launch()
            for node in others:
                node.await_ready()
            if int(rabbitmq.greeting(first.port).partition(".")[0]) >= 4:
                first.control("enable_feature_flag", "--opt-in", "khepri_db")  # as a new cluster of 4.2 has it
            self._end = undo.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.close()

    def _stop(self) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Node.stop, self.nodes))
