"""All processes are told to end, and told again while they do, as the kernel does when a parent with threads dies."""

import signal
from itertools import cycle, islice

import pytest

from orders_project.embedded import processes
from orders_project.tests.running_system import RunningSystem

pytestmark = pytest.mark.processes

TIMES = 20  # one may arrive while another is handled


@pytest.fixture
def told(everything: RunningSystem) -> RunningSystem:
    """The system with all of its processes, also those of gRPC."""
    port = processes.free_port()
    everything.start_all()
    everything.start("grpc", command=["manage.py", "grpcserver", "--port", str(port)])
    everything.until(lambda: processes.answers(port))
    return everything


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]])
def test_each_ends(told: RunningSystem, signals: list[signal.Signals]) -> None:
    for process in told.running.values():
        for number in islice(cycle(signals), TIMES):
            process.send_signal(number)

    def left() -> list[str]:
        return [name for name, process in told.running.items() if process.poll() is None]

    try:
        processes.wait_until(lambda: not left(), timeout=120)
    except TimeoutError:
        pytest.fail(f"still there: {left()}")
    finally:
        told.stop_all()
