"""The embedded run: everything on one machine, by one command."""

import contextlib
import http.client
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from orders_project.auth.authentication import keys

from . import places, processes
from .services import Services, provide
from .supervisor import Program, Supervisor, stopping_on_signals

WORKERS = {"orders": "orders", "webhooks": "orders.webhooks", "payments": "payments", "processing": "processing"}
MANAGE = (sys.executable, "manage.py")
WEB_THREADS = 4
GRPC_THREADS = 4
QUIET = "[info "  # how a line of the log that tells of nothing unusual begins, after its time

EXAMPLE = '{"user_id": "demo-rich", "amount": "19.99", "description": "A lamp"}'
WELCOME = """
  Orders is running.

    API        {public}/orders
    Admin      {public}/admin/    user admin, password {password}
    gRPC       127.0.0.1:{grpc}
    Gateway    {gateway} (the fake one)
    Commands   make manage ARGS=status    (also: "order ID", "dlq list", audit, saga, help)

  {auth}. Place an order:

    curl -s {public}/orders -H 'Content-Type: application/json' \\
      -d '{example}'

  Data and logs are in {data}
  Ctrl-C stops everything and keeps the data; `make clean` forgets them.
"""


def up(given: Mapping[str, str]) -> None:
    """
    Start everything that the environment `given` does not name, keep it running, and stop it on a signal.

    :raises CannotRun: if a part cannot be had or does not come up
    """
    data = Path(given.get("DATA") or places.PROJECT / ".data").expanduser().resolve()
    with stopping_on_signals(), contextlib.ExitStack() as at_the_end:
        at_the_end.enter_context(places.claim(data))
        ours = environment(given, data=data)
        env = {**given, **ours}
        supervisor = Supervisor(logs=data / "logs", env=env, cwd=places.PROJECT)
        _say_what_moved(supervisor, given=given, env=env)

        supervisor.say("up", "starting the servers")
        services = provide(data, given)
        at_the_end.callback(services.stop)
        env.update(services.env)
        _write_env_file(data / "env", {**ours, **services.env})
        at_the_end.callback((data / "env").unlink, missing_ok=True)

        at_the_end.callback(supervisor.stop)
        password = data / "admin-password"
        supervisor.run("migrate", *MANAGE, "migrate_all", "-v", "0")
        supervisor.run("topology", *MANAGE, "declare_topology")
        supervisor.run("demo", *MANAGE, "load_demo", "--password-file", str(password))
        supervisor.start(programs(env, data=data))
        print(_welcome(env, data=data, password=password.read_text()), flush=True)
        supervisor.watch(also=lambda: _mend(services, supervisor))


def environment(given: Mapping[str, str], *, data: Path) -> dict[str, str]:
    """The variables of this run, apart from the addresses of its servers."""
    port = processes.free_port_from(int(given.get("PORT") or 8000))
    gateway = processes.free_port_from(int(given.get("FAKE_GATEWAY_PORT") or 8900))
    metrics = data / "metrics"
    shutil.rmtree(metrics, ignore_errors=True)
    metrics.mkdir()
    here = "127.0.0.1"
    return {
        "EMBEDDED": "1",
        "API_AUTH": given.get("API_AUTH") or "open",
        "JWT_KEY_FILES": given.get("JWT_KEY_FILES") or _kept_key(data / "jwt-key.pem"),
        "SECRET_KEY": given.get("SECRET_KEY") or _kept_secret(data / "secret-key"),
        "PORT": str(port),
        "PUBLIC_URL": given.get("PUBLIC_URL") or f"http://{here}:{port}",
        "FAKE_GATEWAY_PORT": str(gateway),
        "GRPC_PORT": str(processes.free_port_from(int(given.get("GRPC_PORT") or 50051))),
        "FAKE_GATEWAY_URL": given.get("FAKE_GATEWAY_URL") or f"http://{here}:{gateway}",
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


def programs(env: Mapping[str, str], *, data: Path) -> list[Program]:
    """The table of what runs, in the order in which it starts."""
    celery = (sys.executable, "-m", "celery", "-q", "-A", "orders_project")
    port, gateway = int(env["PORT"]), int(env["FAKE_GATEWAY_PORT"])
    return [
        Program(
            "gateway",
            [*MANAGE, "fake_gateway", "--port", str(gateway), "--state", str(data / "gateway")],
            ready=lambda: processes.answers(gateway),
        ),
        *(
            Program(
                name,
                [
                    *celery, "worker", "-Q", queue, "-n", f"{name}@%h", "-c", "2", "-l", "INFO",
                    "--without-gossip", "--without-mingle",
                ],
                says=" ready.",
                whispers=QUIET,
            )
            for name, queue in WORKERS.items()
        ),
        Program("relay", [*MANAGE, "relay"], says="relaying"),
        Program(
            "beat",
            [*celery, "beat", "-l", "INFO", "-s", str(data / "beat-schedule"), "--pidfile="],
            says="beat: Starting",
            whispers=QUIET,
        ),
        Program("grpc", [*MANAGE, "grpcserver", "--threads", str(GRPC_THREADS)], says="gRPC is listening"),
        Program(
            "web",
            [
                sys.executable, "-m", "gunicorn", "-c", "python:orders_project.gunicorn", "orders_project.wsgi",
                "--bind", f"127.0.0.1:{port}", "--workers", "2", "--threads", str(WEB_THREADS),
            ],
            env={"DATABASE_POOL": str(WEB_THREADS)},
            ready=_is_healthy(port),
        ),
    ]  # fmt: skip


def _is_healthy(port: int) -> Callable[[], bool]:
    def ask() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
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
        keys.make(path)
    return str(path)


def _say_what_moved(supervisor: Supervisor, *, given: Mapping[str, str], env: Mapping[str, str]) -> None:
    for name, usual in {"PORT": "8000", "GRPC_PORT": "50051", "FAKE_GATEWAY_PORT": "8900"}.items():
        wanted = given.get(name) or usual
        if env[name] != wanted:
            supervisor.say("up", f"port {wanted} is taken: {name} is {env[name]}")


def _welcome(env: Mapping[str, str], *, data: Path, password: str) -> str:
    open_doors = env["API_AUTH"] == "open"
    return WELCOME.format(
        public=env["PUBLIC_URL"],
        password=password,
        grpc=env["GRPC_PORT"],
        gateway=env["FAKE_GATEWAY_URL"],
        auth="Anybody may call the API in this run (API_AUTH=open)" if open_doors else "The API asks for a token",
        example=EXAMPLE,
        data=data,
    )
