"""A running system behind proxies, and how each fault of a schedule is done to it and mended again."""

import contextlib
import os
import signal
import sys
import time
from contextlib import ExitStack
from datetime import timedelta
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import requests

from orders_project.embedded import places, processes, variable
from orders_project.embedded.services import DATABASES, Services, begin
from orders_project.tests import wrong_clock
from orders_project.tests.process_tree import family
from orders_project.tests.running_system import PROJECT, RunningSystem

from . import message_faults
from .proxy import Proxies
from .schedule import SERVICES, Fault

SHORT = {
    "HOLD_TTL_SECONDS": "45", "PAYMENT_TIMEOUT_SECONDS": "40", "PROCESSING_TIMEOUT_SECONDS": "20",
    "RATE_LIMIT_ORDERS_PER_MINUTE": "0", "FAKE_PAYMENT_SUCCESS_RATE": "0.9", "PROCESSING_SUCCESS_RATE": "0.9",
    "GATEWAY_READ_TIMEOUT": "5", "REFUND_APPROVAL_ABOVE": "100000",
}  # fmt: skip
SERVERS = {"postgresql": "postgres", "rabbitmq": "rabbitmq"}
THREADS = "12"  # of the web process: so many requests are in the middle of it when it dies
SLOW = (0.12, 0.03)  # seconds of standing still and of running, in turn


class FaultySystem:
    """
    The system that faults are injected into. Everything runs on entering; the addresses of the servers are those of the
    proxies.
    """

    def __init__(self, *, given: Services | None = None) -> None:
        """:param given: servers and migrated databases that others use as well: they are not hit themselves"""
        self._given = given
        self._end = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self.home = places.scratch("chaos")
            undo.callback(places.forget, self.home)
            is_given = self._given is not None and {"AMQP_URL", *map(variable, DATABASES)} <= self._given.env.keys()
            if self._given is not None and is_given:
                self.servers = self._given
            else:
                self.servers = begin(self.home, {}, for_tests=True)
                undo.callback(self.servers.stop)
                self.servers.await_ready()
            self.urls = {name: self.servers.env[variable(name)] for name in DATABASES}
            broker = self.servers.env["AMQP_URL"]
            self.gateway_port = processes.free_port()
            targets = {name: (lambda url=url: _port(url)) for name, url in self.urls.items()}
            self.proxies = undo.enter_context(
                Proxies(**targets, broker=lambda: _port(broker), gateway=lambda: self.gateway_port)
            )
            env = {variable(name): self._through(name, url) for name, url in self.urls.items()}
            env["AMQP_URL"] = self._through("broker", broker)
            migrated = self.servers.postgres if is_given else None
            environment = SHORT | {"FAKE_GATEWAY_URL": f"http://127.0.0.1:{self.proxies.links['gateway'].port}"}
            self.system = undo.enter_context(RunningSystem(environment, given=Services(env=env, postgres=migrated)))
            self.system.commands["web"][-1] = THREADS
            state = ["--port", str(self.gateway_port), "--state", str(self.home / "gateway.jsonl")]
            self.system.commands["gateway"] = ["manage.py", "fake_gateway", *state]
            self.messages = message_faults.MessageFaults(self.urls)
            for service in SERVICES:
                self.messages.prepare(service)
            self.gateway_url = f"http://127.0.0.1:{self.gateway_port}"
            self.system.start_all()
            self.system.until(lambda: processes.answers(self.gateway_port))
            self._end = undo.pop_all()
        self._slow: set[str] = set()
        self._frozen: set[str] = set()
        self._down: set[str] = set()
        self._had_alarm = False
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.close()

    def _through(self, name: str, url: str) -> str:
        parts = urlsplit(url)
        credentials = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{self.proxies.links[name].port}"))

    # What is done ---------------------------------------------------------------------------------------------------

    def begin(self, fault: Fault) -> None:
        """Do it; what comes back by itself is mended by `mend`."""
        if fault.kind in message_faults.KINDS:
            self.messages.begin(fault)
        else:
            getattr(self, f"_begin_{fault.kind}")(fault)

    def mend(self, fault: Fault) -> None:
        if fault.kind in message_faults.KINDS:
            self.messages.mend(fault)
        else:
            getattr(self, f"_mend_{fault.kind}", lambda fault: None)(fault)

    def tick(self) -> list[str]:
        """
        Let what is slow stand still for a moment, and workers die that have taken poison; start again what has ended by
        itself, and say what that was.
        """
        for name in self._slow - self._frozen:
            self._signal(name, signal.SIGSTOP)
        if self._slow:
            time.sleep(SLOW[0])
        for name in self._slow - self._frozen:
            self._signal(name, signal.SIGCONT)
        ended = []
        for name in self.messages.poisoned & self.system.running.keys():
            if self.messages.dies(name, kill=self.system.kill):
                ended.append(f"{name} died of a message")
                self._start(name)
        for name, process in list(self.system.running.items()):
            if name not in self._down and process.poll() is not None:
                ended.append(f"{name} ended by itself with code {process.returncode}")
                self.system.running.pop(name)
                self._start(name)
        return ended

    def repair(self) -> None:
        """Mend also what could not be mended when its fault was over, because another one was not."""
        self._behave({})
        self.messages.repair()
        if self._had_alarm:
            self._control("set_disk_free_limit", "50MB")
        for name in self.system.commands:
            self._start(name)

    def _begin_kill(self, fault: Fault) -> None:
        self._down.add(fault.target)
        if fault.target in SERVERS:
            server = self._server(fault.target)
            members = family(server.process.pid) if server.is_running else []
            server.kill()
            for pid in members:  # backends that outlive their server would keep the next one from starting
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        elif fault.target in self.system.running:
            self.system.kill(fault.target)

    def _mend_kill(self, fault: Fault) -> None:
        if fault.target not in SERVERS:
            self._start(fault.target)
        elif not (server := self._server(fault.target)).is_running:
            server.kill()
            server.start()
        self._down.discard(fault.target)

    def _begin_restart(self, fault: Fault) -> None:
        self._down.add(fault.target)
        if fault.target in SERVERS:
            self._server(fault.target).stop()
        elif fault.target in self.system.running:
            self.system.stop(fault.target)

    _mend_restart = _mend_kill

    def _begin_torn(self, fault: Fault) -> None:
        """What it commits to and hears from becomes slow, so that its end falls between two commits."""
        for link in self.proxies.links.values():
            link.delay = fault.how["by"]

    def _mend_torn(self, fault: Fault) -> None:
        if fault.target in self.system.running:
            self.system.kill(fault.target)
        for link in self.proxies.links.values():
            link.delay = 0.0
        self._start(fault.target)

    def _begin_freeze(self, fault: Fault) -> None:
        self._frozen.add(fault.target)
        self._signal(fault.target, signal.SIGSTOP)

    def _mend_freeze(self, fault: Fault) -> None:
        self._frozen.discard(fault.target)
        self._signal(fault.target, signal.SIGCONT)

    def _begin_slow(self, fault: Fault) -> None:
        self._slow.add(fault.target)

    def _mend_slow(self, fault: Fault) -> None:
        self._slow.discard(fault.target)

    def _begin_hole(self, fault: Fault) -> None:
        self.proxies.hold(fault.target)

    def _mend_hole(self, fault: Fault) -> None:
        self.proxies.let_pass(fault.target)

    def _begin_reset(self, fault: Fault) -> None:
        """What is sent from now on is lost with the connections; or only what is answered."""
        self.proxies.hold(fault.target, answers_only=fault.how["loses"] == "answers")

    def _mend_reset(self, fault: Fault) -> None:
        self.proxies.reset(fault.target)
        self.proxies.let_pass(fault.target)

    def _begin_delay(self, fault: Fault) -> None:
        self.proxies.links[fault.target].delay = fault.how["by"]

    def _mend_delay(self, fault: Fault) -> None:
        self.proxies.links[fault.target].delay = 0.0

    def _begin_lossy(self, fault: Fault) -> None:
        self.proxies.links[fault.target].loses = fault.how["share"]

    def _mend_lossy(self, fault: Fault) -> None:
        self.proxies.links[fault.target].loses = 0.0

    def _begin_misbehave(self, fault: Fault) -> None:
        self._behave(fault.how)

    def _mend_misbehave(self, fault: Fault) -> None:
        self._behave({})

    def _behave(self, how: dict[str, Any]) -> None:
        with contextlib.suppress(requests.RequestException):  # it may be down or frozen
            requests.post(f"{self.gateway_url}/behaviour", json=how, timeout=2)

    def _begin_clock(self, fault: Fault) -> None:
        self._again(fault.target, wrong_by=fault.how["wrong_by"])

    def _mend_clock(self, fault: Fault) -> None:
        self._again(fault.target)

    def _begin_alarm(self, fault: Fault) -> None:
        self._had_alarm = True
        self._control("set_disk_free_limit", "1000TB")

    def _mend_alarm(self, fault: Fault) -> None:
        self._control("set_disk_free_limit", "50MB")

    # Helpers --------------------------------------------------------------------------------------------------------

    def _server(self, name: str) -> Any:
        return getattr(self.servers, SERVERS[name])

    def _control(self, *arguments: str) -> None:
        if "rabbitmq" not in self._frozen:
            with contextlib.suppress(processes.NotReady):  # it may be down
                self._server("rabbitmq")._control(*arguments)

    def _again(self, name: str, *, wrong_by: int = 0) -> None:
        """Have a role die and come again, with another clock."""
        self._down.add(name)
        if name in self.system.running:
            self.system.kill(name)
        self._start(name, wrong_by=wrong_by)
        self._down.discard(name)

    def _start(self, name: str, *, wrong_by: int = 0) -> None:
        if name in self.system.running:
            return
        if not wrong_by:
            self.system.start(name, wait=False)
            return
        env = self.system.env | wrong_clock.environment(timedelta(seconds=wrong_by))
        with self.system.log(name).open("ab") as log:
            self.system.running[name] = processes.spawn(
                [sys.executable, *self.system.commands[name]],
                env=env | {"DJANGO_SETTINGS_MODULE": "orders_project.settings"},
                output=log,
                cwd=PROJECT,
            )

    def _signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to all processes of a role or a server, as far as it has any."""
        if name in SERVERS:
            process = self._server(name).process
            members = family(process.pid) if process is not None else []
        elif name in self.system.running:
            members = family(self.system.running[name].pid)
        else:
            return
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _port(url: str) -> int:
    return urlsplit(url).port or 0
