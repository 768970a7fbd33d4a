"""What `make bench` makes of what it has measured."""

import os
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import baseline, cells, chart, footprint, load, scaling
from orders_project.embedded import processes
from orders_project.tests.process_tree import family
from orders_project.tests.running_system import PROJECT

SVG = "{http://www.w3.org/2000/svg}"


def told(cpu: dict[str, float], *, finished: float, **more: Any) -> dict[str, Any]:
    """What a revision writes, and `more` that only a newer one does."""
    full = {"finished_per_second": finished, "cpu_per_order": cpu}
    gentle = {"accepted_to_done": [0.04, 0.08, 0.2]}
    return {"limit": [300.0, 500.0], "ratio": finished / 400, "full": full, "gentle": gentle} | more


def test_two_revisions_are_compared_by_medians_whatever_their_processes_are_called() -> None:
    before = [told({"web": 0.01, "notifier": ms / 1000}, finished=20) for ms in (10, 900, 30)]
    now = [told({"web": 0.01, "beat": 0.01}, finished=80, footprint={"bytes": 1}) for _ in range(3)]
    found = baseline.compare(before, now)
    assert {name: round(value, 3) for name, value in found["CPU an order, ms"].items()} == {
        "before": 40, "now": 20, "ratio": 0.5,
    }  # fmt: skip
    assert found["finished ÷ limit"] == {"before": 0.05, "now": 0.2, "ratio": 4}
    assert baseline.cpu_by_process(before) == {"notifier": 30, "web": 10}
    assert len(baseline.lines({"revision": "a" * 40, "figures": found})) == 1 + len(baseline.FIGURES)


def test_what_retention_deletes_does_not_stay_for_ever() -> None:
    names = ("orders.orders_order", "payments.outbox_outgoingmessage", "payments.payments_idempotencykey")
    before, after = (
        {"sizes": dict.fromkeys(names, size), "before": counted, "after": counted}
        for size, counted in ((8192, dict.fromkeys(footprint.MOVED, 10)), (16384, dict.fromkeys(footprint.MOVED, 70)))
    )
    found = footprint.per_order(before, after, orders=4)
    assert (found["bytes"], found["lasting_bytes"], found["commits"]) == (3 * 2048, 2048, 15)


def test_bars_are_as_long_as_their_values() -> None:
    bars = {"before": {"web & all": 30.0, "relay": 10.0}, "now": {"web & all": 10.0}}
    picture = ElementTree.fromstring(chart.stacked_bars("CPU", bars, unit="ms", how="here"))  # noqa: S314 (our own)
    widths = [float(rect.attrib["width"]) for rect in picture.iter(f"{SVG}rect") if rect.attrib["height"] == "24"]
    assert [round(width / widths[1], 1) for width in widths] == [3, 1, 1]
    assert "40.0 ms" in [text.text for text in picture.iter(f"{SVG}text")]


def test_lines_go_from_the_beginning_to_the_end() -> None:
    series = {"finished": [(0, 0.0), (5, 100.0)], "refused": []}
    picture = ElementTree.fromstring(chart.over_time("Load", series, unit="a second", how="", marks={"end": 5}))  # noqa: S314 (our own)
    drawn = [line.attrib["points"].split() for line in picture.iter(f"{SVG}polyline")]
    assert drawn == [["60.0,326.0", f"{chart.WIDTH - chart.MARGIN:.1f},86.0"], []]


def test_the_load_obeys_retry_after_for_its_share_of_the_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[bytes] = Counter()

    class RefusesTheFirstTime(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked[body] += 1
            self.send_response(201 if asked[body] > 1 else 503)
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Requests are not logged."""

    numbers, seconds = iter(range(1000)), 2.0
    monkeypatch.setattr(load, "order", lambda: {"number": next(numbers)})
    with ThreadingHTTPServer(("127.0.0.1", 0), RefusesTheFirstTime) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        answers = load.run(url, rate=50, seconds=seconds, longest_wait=600, clients=4, obedient=0.5)
        server.shutdown()
    assert len(asked) == 100
    refused = {answer.attempt.number: answer.at for answer in answers if answer.status == 503}
    again = {answer.attempt.number: answer.attempt.at for answer in answers if answer.status == 201}
    assert len(refused) == 100
    assert again == {number: at + 1 for number, at in refused.items() if number < 50 and at + 1 < seconds}
    assert all(answer.at >= answer.attempt.at for answer in answers)


def test_cells_are_as_full_as_their_largest_clients_make_them() -> None:
    alike, skewed = cells.shares(1000, skew=0), cells.shares(1000, skew=1)
    assert (round(sum(skewed), 6), skewed[0] > 0.1) == (1, True)
    assert cells.fullest(alike, cells=10, placed=1000, seed=1) == pytest.approx(1)
    assert 1 < cells.fullest(alike, cells=10, placed=0, seed=1) < 1.5
    assert cells.fullest(skewed, cells=10, placed=100, seed=1) < cells.fullest(skewed, cells=10, placed=0, seed=1)
    assert cells.fullest(skewed, cells=100, placed=1000, seed=1) == pytest.approx(100 * skewed[0])


def test_what_rates_take_is_what_an_order_costs_as_often() -> None:
    costs = {f"cpu {name}": 0.001 for name in ("web", "relay", "RabbitMQ", "PostgreSQL", *scaling.SERVICES)}
    costs |= {f"{what} {service}": 2.0 for what in scaling.WHAT for service in scaling.SERVICES}
    costs |= dict.fromkeys((*footprint.MOVED, "bytes", "lasting_bytes"), 1000.0)
    found = scaling.needed(costs, rate=1000)
    assert (found["cores of web"], found["cores of workers"], found["commits/s of orders"]) == (1, 3, 2000)
    assert (found["WAL MB/s"], found["rows/s to purge, at most"], found["GB a day"]) == (1, 2000, 86.4)


@pytest.mark.processes
def test_a_benchmark_that_is_told_to_end_stops_what_it_has_started(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.orders", "--seconds", "60"]
    with (tmp_path / "output").open("wb") as output:
        run = processes.spawn(command, env=os.environ, cwd=PROJECT, output=output)
    try:
        processes.wait_until(lambda: "postgres" in map(name_of, family(run.pid)), timeout=180)
        started = family(run.pid)
        run.terminate()
        assert run.wait(timeout=120) == 0, (tmp_path / "output").read_text()
        processes.wait_until(lambda: not any(map(name_of, started)), timeout=60)
    finally:
        processes.end(run)


def name_of(pid: int) -> str:
    """What a process is called, if there is one."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
