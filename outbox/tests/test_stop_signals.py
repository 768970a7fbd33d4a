"""A process that is told to end, and told again and again."""

import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
ROUNDS = """
import signal
from outbox.stop_signals import StopSignals

signals = StopSignals()
print("ready", flush=True)
for _ in range(2000):
    while not signals.wait(0.0001):
        pass
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
print("ended", flush=True)
"""


@pytest.mark.processes
@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGINT, signal.SIGTERM]])
def test_no_signal_waits_for_another(numbers: list[signal.Signals]) -> None:
    command, told = [sys.executable, "-c", ROUNDS], itertools.cycle(numbers)
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            deadline = time.monotonic() + 120
            while process.poll() is None:
                assert time.monotonic() < deadline, "it waits for ever"
                process.send_signal(next(told))
            assert (process.returncode, process.stdout.readline()) == (0, "ended\n")
        finally:
            process.kill()
