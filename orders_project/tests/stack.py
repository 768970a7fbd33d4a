"""
docker/compose.yaml without containers: its own commands and environments as processes on this machine.

The servers are private ones, and addresses, ports and paths are replaced; nothing else is. All databases are
on one server; each has an owner, who is no superuser, and the other roles are those that the service `deploy` makes.
"""

import os
import secrets
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg
import requests
from cryptography.hazmat.primitives import serialization
from psycopg import sql

from orders_project.auth import keys
from orders_project.embedded import debian, places, processes
from orders_project.embedded.services import DATABASES, provide

from . import compose, forked

MAIN = """
daemon off; master_process off; error_log stderr warn; pid {home}/nginx.pid; events {{}}
http {{
    client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
    {gateway}
}}
"""


class Stack:
    """Servers stand on entering; services are started by their names in compose.yaml."""

    def __init__(self) -> None:
        self.home = places.scratch("stack")
        self.running: dict[str, processes.Process] = {}
        self._end = ExitStack()
        self._ports: dict[str, int] = {}
        given = compose.example()
        self.variables = {name: value or secrets.token_hex(32) for name, value in given.items()}
        self.variables |= {
            "RABBITMQ_USER": "app", "FAKE_PAYMENT_SUCCESS_RATE": "1", "PROCESSING_SUCCESS_RATE": "1",
            "ORDERS_ALLOW_FREE_LINES": "true", "ORDERS_QUEUES": "3",
            "PUBLIC_URL": f"http://127.0.0.1:{self.port('gateway:8080')}", "PUBLIC_HOST": "127.0.0.1",
        }  # fmt: skip

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(places.forget, self.home)
            self.servers = provide(self.home, {}, for_tests=True)
            undo.callback(self.servers.stop)
            assert self.servers.postgres is not None
            password = urlsplit(self.servers.env["AMQP_URL"]).password
            self.variables["RABBITMQ_PASSWORD"] = str(password)
            self.services: dict[str, Any] = compose.load(self.variables)["services"]
            self._make_roles()
            self._make_keys()
            undo.callback(self._stop_all)
            self._start_redis()
            self._end = undo.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.close()

    # Processes ------------------------------------------------------------------------------------------------------

    @property
    def ours(self) -> list[str]:
        """The services that run our image for as long as they can."""
        return [name for name, service in self.services.items() if compose.is_ours(service) and name != "deploy"]

    def start(self, *names: str) -> None:
        for name in names:
            service = self.services[name]
            command = [*service.get("entrypoint", compose.entrypoint()), *service["command"]]
            environment = self._outer() | self.environment(name)
            with self.log(name).open("ab") as log:
                self.running[name] = forked.start(self._here(name, command), env=environment, output=log)

    def environment(self, name: str) -> dict[str, str]:
        """What the service's container would have in its environment, with the addresses of here."""
        # Nothing starts it again here, and receivers are near.
        near = {"WEBHOOKS_ALLOW_LOOPBACK": "true", "WEBHOOKS_ALLOW_LOOPBACK_ACKNOWLEDGED": "true"}
        here = {"WAIT_SECONDS": "900", "RATE_LIMIT_ORDERS_PER_MINUTE": "0", **near}
        given = self.services[name]["environment"] | here
        return {key: self._here(name, [str(value)])[0] for key, value in given.items() if key not in NOT_HERE}

    def deploy(self) -> None:
        """Run the service that migrates, declares and grants to its end. The broker has no management here."""
        self.start("deploy")
        assert self.running.pop("deploy").wait(timeout=300) == 0, self.said("deploy")
        assert self.servers.rabbitmq is not None
        definitions = self.home / "definitions.json"
        definitions.write_text(self.inside("deploy", "python", "manage.py", "grant", "--definitions"))
        self.servers.rabbitmq.import_definitions(definitions)

    def inside(self, name: str, *command: str, **more: str) -> str:
        """Run a command as in the container of a service, which must end well; what it said."""
        said, code = self.ask(name, *command, **more)
        assert code == 0, f"{name}: {' '.join(command)}: {said}"
        return said

    def ask(self, name: str, *command: str, **more: str) -> tuple[str, int]:
        """
        Run a command as in the container of a service; what it said (of what went wrong, too), and its code.

        :param more: what is in its environment besides
        """
        done = forked.run(self._here(name, list(command)), env=self._outer() | self.environment(name) | more)
        return done.stdout + (done.stderr if done.returncode else ""), done.returncode

    def start_gateway(self) -> None:
        """The gateway: Debian's nginx with our template, filled in by what compose.yaml says."""
        given = {"LISTEN": f"127.0.0.1:{self.port('gateway:8080')}", "NGINX_LOCAL_RESOLVERS": "127.0.0.1"}
        self.running["gateway"] = nginx(self.home, self.environment("gateway") | given)

    def stop(self, name: str) -> None:
        processes.end(self.running.pop(name))

    def log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def said(self, name: str) -> str:
        return self.log(name).read_text(errors="replace")

    def _outer(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {"PATH": path, "HOME": str(self.home), "PYTHONUNBUFFERED": "1"}

    def _stop_all(self) -> None:
        for process in self.running.values():
            process.terminate()
        for name in list(self.running):
            self.stop(name)

    # Addresses ------------------------------------------------------------------------------------------------------

    def port(self, address: str) -> int:
        """The port here of an address in compose.yaml, such as "orders-web:8000"."""
        if address not in self._ports:
            self._ports[address] = processes.free_port()
        return self._ports[address]

    def url(self, path: str, *, service: str = "gateway", port: int = 8080) -> str:
        return f"http://127.0.0.1:{self.port(f'{service}:{port}')}{path}"

    def _here(self, name: str, words: list[str]) -> list[str]:
        assert self.servers.postgres is not None
        broker = urlsplit(self.servers.env["AMQP_URL"])
        replaced = {f"postgres-{database}:5432": f"127.0.0.1:{self.servers.postgres.port}" for database in DATABASES}
        replaced |= {"rabbitmq:5672": f"127.0.0.1:{broker.port}"}
        for service, port in SERVED:
            replaced[f"{service}:{port}"] = f"127.0.0.1:{self.port(f'{service}:{port}')}"
        replaced |= {
            "0.0.0.0:8000": f"127.0.0.1:{self.port(f'{name}:8000')}",
            "127.0.0.1:8000": f"127.0.0.1:{self.port(f'{name}:8000')}",
            "0.0.0.0": "127.0.0.1",  # noqa: S104 - replaced, not bound
            "/tmp/": f"{self._folder(name)}/",
            "/run/secrets/": f"{self.home}/secrets/",
            "172.31.77.10/32": "127.0.0.0/8",
        }
        exactly = {str(port): str(self.port(f"{name}:{port}")) for port in (9100, 8900, 50051)}
        return [exactly.get(word) or _replace(word, replaced) for word in words]

    def _folder(self, name: str) -> Path:
        folder = self.home / name
        folder.mkdir(exist_ok=True)
        return folder

    # Servers --------------------------------------------------------------------------------------------------------

    def _make_roles(self) -> None:
        """An owner for each database, who may create roles."""
        assert self.servers.postgres is not None
        with psycopg.connect(self.servers.postgres.url("postgres"), autocommit=True) as connection:
            for url in map(urlsplit, self.database_urls("deploy")):
                for statement in (
                    "CREATE ROLE {role} LOGIN CREATEROLE PASSWORD {password}",
                    "ALTER DATABASE {database} OWNER TO {role}",
                ):
                    connection.execute(
                        sql.SQL(statement).format(
                            role=sql.Identifier(str(url.username)),
                            database=sql.Identifier(url.path[1:]),
                            password=str(url.password),
                        )
                    )

    def database_urls(self, name: str) -> list[str]:
        """The databases of a service."""
        return [value for key, value in self.environment(name).items() if key.startswith("DATABASE_URL")]

    def _make_keys(self) -> None:
        folder = self._folder("secrets")
        keys.make(folder / "jwt-private.pem")
        public = keys.load((str(folder / "jwt-private.pem"),))[0].public
        (folder / "jwt-public.pem").write_bytes(
            public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )

    def _start_redis(self) -> None:
        """Debian's Redis for Valkey, by the command of compose.yaml."""
        root = debian.unpack("redis-server")
        folder = self._folder("redis")
        options = f"--port {self.port('redis:6379')} --bind 127.0.0.1 --dir {folder}"
        command = [
            word.replace("/tmp/", f"{folder}/")
            .replace("valkey-server", f"{root}/usr/bin/redis-server")
            .replace(" --save", f" {options} --save")
            for word in self.services["redis"]["command"]
        ]
        environment = debian.environment(root) | {"REDIS_PASSWORD": self.variables["REDIS_PASSWORD"]}
        with self.log("redis").open("ab") as log:
            self.running["redis"] = processes.spawn(command, env=environment, output=log)

    # Waiting --------------------------------------------------------------------------------------------------------

    def until(self, done: Any, *, timeout: float = 180) -> None:
        """Wait until this is true; says which process has died if one has, and shows the logs if time is up."""

        def looked() -> bool:
            for name, process in self.running.items():
                assert process.poll() is None, f"{name} ended: {self.said(name)[-4000:]}"
            return bool(done())

        try:
            processes.wait_until(looked, timeout=timeout)
        except TimeoutError:
            logs = "\n".join(f"--- {name}\n{processes.tail(self.log(name))}" for name in self.running)
            raise AssertionError(logs) from None

    def answers(self, path: str, *, service: str = "gateway", port: int = 8080) -> bool:
        try:
            return requests.get(self.url(path, service=service, port=port), timeout=60).ok
        except requests.RequestException:
            return False


def nginx(home: Path, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    """Debian's nginx as our gateway, its log in gateway.log."""
    root = debian.unpack("nginx-light")
    gateway = compose.filled((compose.DOCKER / "nginx" / "gateway.conf.template").read_text(), variables)
    configuration = home / "nginx.conf"
    configuration.write_text(MAIN.format(home=home, gateway=gateway.replace("/dev/stdout", f"{home}/requests.log")))
    command: list[str | Path] = [root / "usr/sbin/nginx", "-p", home, "-e", "stderr", "-c", configuration]
    with (home / "gateway.log").open("ab") as log:
        return processes.spawn(command, env=debian.environment(root), output=log)


WEBS = ("orders-web", "payments-web", "processing-web", "back-office")
SERVED = (*((web, 8000) for web in WEBS), ("grpc", 50051), ("fake-gateway", 8900), ("redis", 6379))
NOT_HERE = {"OTEL_EXPORTER_OTLP_ENDPOINT", "RABBITMQ_MANAGEMENT_URL"}  # nobody listens there


def _replace(word: str, replaced: dict[str, str]) -> str:
    for there, here in replaced.items():
        word = word.replace(there, here)
    return word
