"""The embedded run: everything on one machine, by one command."""

import argparse
import contextlib
import http.client
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from orders_project.environment import Environment

from . import CannotRun, backup_folder, places, processes
from .backup_folder import NoBackup
from .fork_server import ForkServer
from .services import DATABASES, Services, begin, variable
from .supervisor import Program, Supervisor, stopping_on_signals

CELERY = ("-m", "celery", "-q", "-A", "orders_project")
PORTS = {"PORT": "8000", "GRPC_PORT": "50051", "FAKE_GATEWAY_PORT": "8900"}  # where nothing else is said
THREADS = 3  # of the web, and of gRPC
QUIET = "[info "  # how a line of the log that tells of nothing unusual begins, after its time

EXAMPLE = '{"user_id": "demo-rich", "amount": "19.99", "description": "A lamp"}'
WELCOME = """
  Orders is running.

    API        {public}/orders    to try all of it: {public}/docs
    Admin      {public}/admin/    user admin, password {password}
    gRPC       127.0.0.1:{grpc}
    Gateway    {gateway} (the fake one)
    Commands   {commands}    (also: order ID, dlq list, audit, saga, help)

  {place}

  Data and logs are in {data}{backups}
  Ctrl-C stops everything and keeps the data; `make clean{which}` deletes them.
"""
OPEN = """Anybody may call the API in this run (API_AUTH=open). Place an order:

    curl -s -w '\\n' {public}/orders -H 'Content-Type: application/json' \\
      -d '{example}'"""
CLOSED = "The API asks for a token: docs/first-order.md shows how to get one."


def main() -> None:
    """
    `manage.py up`.

    :raises SystemExit: if a part cannot be had or does not come up
    """
    about = "Run everything on this machine, with private servers for whatever the environment does not name."
    argparse.ArgumentParser(prog="manage.py up", description=about).parse_args(sys.argv[2:])
    Environment(env_file=places.PROJECT / ".env")
    try:
        up(os.environ)
    except CannotRun as refusal:
        raise SystemExit(f"up: {refusal}") from None


def up(given: Mapping[str, str]) -> None:
    """
    Start everything that the environment `given` does not name, keep it running, and stop it on a signal.

    :raises CannotRun: if a part cannot be had or does not come up
    """
    _refuse_half_a_backup(given)
    _refuse_half_an_address(given)
    began = time.monotonic()
    data = places.data_of_run(given)
    with stopping_on_signals(), contextlib.ExitStack() as at_the_end:
        at_the_end.enter_context(places.claim(data))
        ours = environment(given, data=data)
        env = {**given, **ours}
        libraries = ForkServer.bare(env=env, cwd=places.PROJECT, log=data / "logs" / "imports.log")
        at_the_end.callback(libraries.stop)
        system = libraries.with_settings(env=env)
        at_the_end.callback(system.stop)
        supervisor = Supervisor(logs=data / "logs", spawn=partial(system.spawn, output=subprocess.PIPE))
        _say_what_moved(supervisor, given=given, env=env)

        supervisor.say("up", "starting the servers")
        services = begin(data, given)
        at_the_end.callback(services.stop)
        env.update(services.env)
        at_the_end.callback((data / "env").unlink, missing_ok=True)

        at_the_end.callback(supervisor.stop)
        password = data / "admin-password"

        def broker_is_ready() -> bool:
            if not services.is_settled():
                return False
            services.await_ready()
            if env["AMQP_URL"] != (address := services.env.get("AMQP_URL", env["AMQP_URL"])):
                env["AMQP_URL"] = address
                system.stop()  # what it has read is no longer true
            return True

        supervisor.start(
            programs(env, data=data, password=password),
            parts={"the code": system.is_ready, "the broker": broker_is_ready},
        )
        _write_env_file(data / "env", {**ours, **services.env})
        supervisor.say("up", f"ready after {time.monotonic() - began:.1f} s")
        print(_welcome(env, data=data, password=password.read_text()), flush=True)
        supervisor.watch(also=lambda: _mend(services, supervisor))


def environment(given: Mapping[str, str], *, data: Path) -> dict[str, str]:
    """The variables of this run, apart from the addresses of its servers."""
    port, grpc, gateway = (_free_port(given, name) for name in PORTS)
    metrics = data / "metrics"
    shutil.rmtree(metrics, ignore_errors=True)
    metrics.mkdir()
    here = "127.0.0.1"
    return {
        "EMBEDDED": "1",
        "API_AUTH": given.get("API_AUTH") or "open",
        "JWT_KEY_FILES": given.get("JWT_KEY_FILES") or _kept_key(data / "jwt-key.pem"),
        "SECRET_KEY": given.get("SECRET_KEY") or _kept_secret(data / "secret-key"),
        "ENCRYPTION_KEY": given.get("ENCRYPTION_KEY") or _kept_secret(data / "encryption-key"),
        "PORT": str(port),
        "PUBLIC_URL": given.get("PUBLIC_URL") or f"http://{here}:{port}",
        "FAKE_GATEWAY_PORT": str(gateway),
        "GRPC_PORT": str(grpc),
        "FAKE_GATEWAY_URL": given.get("FAKE_GATEWAY_URL") or f"http://{here}:{gateway}",
        "DATABASE_POOL": str(THREADS),
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        "RATE_LIMIT_FILE": str(data / "limits.sqlite3"),
        "METRICS_HOST": here,
        "LOG_FORMAT": given.get("LOG_FORMAT") or "console",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": given.get("PYTHONWARNINGS") or "ignore::UserWarning",  # Celery's and whitenoise's advice
        # The parts talk to each other on this machine, whatever proxy leads out of it.
        "NO_PROXY": ",".join(filter(None, [given.get("NO_PROXY"), here, "localhost"])),
        "no_proxy": ",".join(filter(None, [given.get("no_proxy"), here, "localhost"])),
    }


def programs(env: Mapping[str, str], *, data: Path, password: Path) -> list[Program]:
    """The table of what runs, and what each waits for: all of it forked, so `argv` is what follows `python`."""
    port, gateway = int(env["PORT"]), int(env["FAKE_GATEWAY_PORT"])
    code, broker, topology = "the code", "the broker", "topology"
    migrate = [f"migrate {database}" for database in DATABASES]
    return [
        *(
            Program(name, ["manage.py", "migrate_all", "-v", "0", "--database", name.split()[1]], [code], once=True)
            for name in migrate
        ),
        Program(topology, ["manage.py", "declare_topology"], after=[code, broker], once=True),
        Program("demo", ["manage.py", "load_demo", "--password-file", str(password)], after=migrate, once=True),
        Program(
            "gateway",
            ["manage.py", "fake_gateway", "--port", str(gateway), "--state", str(data / "gateway")],
            after=[code],
            ready=lambda: processes.answers(gateway),
        ),
        worker("worker", "orders,payments,processing", after=[*migrate, topology], processes=2),
        worker("webhooks", "orders.webhooks", after=[*migrate, topology], processes=1),
        Program("relay", ["manage.py", "relay"], after=[*migrate, topology], says="relaying"),
        Program(
            "beat",
            [*CELERY, "beat", "-l", "INFO", "--pidfile="],
            after=[*migrate, topology],
            says="beat is starting",
            whispers=QUIET,
        ),
        Program(
            "grpc",
            ["manage.py", "grpcserver", "--threads", str(THREADS)],
            after=[*migrate, broker],
            says="gRPC is listening",
        ),
        Program(
            "web",
            [
                "-m", "gunicorn", "-c", "python:orders_project.gunicorn", "orders_project.wsgi",
                "--bind", f"127.0.0.1:{port}", "--workers", "1", "--threads", str(THREADS),
            ],
            after=[*migrate, broker],
            ready=_is_alive(port),
        ),
    ]  # fmt: skip


def worker(name: str, queues: str, *, after: Sequence[str], processes: int) -> Program:
    return Program(
        name,
        [
            *CELERY, "worker", "-Q", queues, "-n", f"{name}@%h", "-c", str(processes), "-l", "INFO",
            "--without-gossip", "--without-mingle",
        ],
        after=after,
        says=" ready.",
        whispers=QUIET,
    )  # fmt: skip


def _is_alive(port: int) -> Callable[[], bool]:
    def ask() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health/live")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return ask


def _mend(services: Services, supervisor: Supervisor) -> None:
    for name in services.mend():
        supervisor.say("up", f"{name} had ended and was started again")


def _write_env_file(path: Path, variables: Mapping[str, str]) -> None:
    """Leave behind how to reach this run, for `make manage`; nobody else may read it."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))


def _kept_secret(path: Path) -> str:
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(48))
    return path.read_text()


def _kept_key(path: Path) -> str:
    if not path.exists():
        from orders_project.auth import keys  # a moment's import, for the first start alone

        keys.make(path)
    return str(path)


def _refuse_half_a_backup(given: Mapping[str, str]) -> None:
    named = [variable(database) for database in DATABASES if given.get(variable(database))]
    if given.get(backup_folder.VARIABLE) and named:
        raise NoBackup(
            f"{backup_folder.VARIABLE} is for databases of this run's own, and {', '.join(named)} name others:"
            " unset it, and see docs/backups.md for servers of your own"
        )


def _refuse_half_an_address(given: Mapping[str, str]) -> None:
    for name in map(variable, DATABASES):
        if given.get(f"{name}_DIRECT") and not given.get(name):
            raise CannotRun(f"{name}_DIRECT is set and {name} is not: they name one database, by PgBouncer and past it")


def _free_port(given: Mapping[str, str], name: str) -> int:
    """The port that this variable names, or the next one that is free."""
    text = given.get(name) or PORTS[name]
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 0 < int(text) < 65536):
        raise CannotRun(f"{name}: {text!r} is not a port: name one from 1 to 65535")
    return processes.free_port_from(int(text), is_named=bool(given.get(name)))


def _say_what_moved(supervisor: Supervisor, *, given: Mapping[str, str], env: Mapping[str, str]) -> None:
    for name, usual in PORTS.items():
        wanted = given.get(name) or usual
        if env[name] != wanted:
            supervisor.say("up", f"port {wanted} is taken: {name} is {env[name]}")


def _commands(data: Path) -> str:
    """How somebody in another terminal asks this run: see launcher.use_running_system."""
    if (places.PROJECT / ".env").is_file():
        return "make manage ARGS=status"
    return f"{'' if _is_usual(data) else f'DATA={shlex.quote(str(data))} '}./manage.py status"


def _is_usual(data: Path) -> bool:
    return data == (places.PROJECT / ".data").resolve()


def _welcome(env: Mapping[str, str], *, data: Path, password: str) -> str:
    is_open = env["API_AUTH"] == "open"
    which = "" if _is_usual(data) else f" DATA={shlex.quote(str(data))}"
    folder = env.get(backup_folder.VARIABLE)
    return WELCOME.format(
        public=env["PUBLIC_URL"],
        password=password,
        grpc=env["GRPC_PORT"],
        gateway=env["FAKE_GATEWAY_URL"],
        commands=_commands(data),
        place=OPEN.format(public=env["PUBLIC_URL"], example=EXAMPLE) if is_open else CLOSED,
        data=data,
        backups=f"\n  What PostgreSQL writes is archived in {folder}: docs/backups.md" if folder else "",
        which=which,
    )
