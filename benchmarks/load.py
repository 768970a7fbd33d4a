"""
An open-loop load from a process of its own: orders arrive at their rate, whether or not the system keeps up.

    python -m benchmarks.load URL RATE SECONDS [LONGEST_WAIT] [CLIENTS] [OBEDIENT]

As many orders as there are CLIENTS wait for an answer at the same time. An order that has waited for a free client for
more than LONGEST_WAIT seconds is given up; without that, all of them are sent in the end. OBEDIENT is the share of
orders that are sent again when they were refused (503: the system is busy), as soon as `Retry-After` allows and as long
as the load lasts; the others are not sent again.

Prints one JSON line: how many were sent, accepted, refused at last, given up, and answered in
any other way or not at all; how many answers refused one and when; how late the answers came, and the CPU-seconds that
sending took.
"""

import json
import math
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from http.client import HTTPConnection, HTTPException
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

USERS, PRODUCTS = 100, 50
CLIENTS = 64  # that wait for an answer at the same time
TIMEOUT = 30  # seconds
IDLE = 1.0  # seconds for which a connection is kept that nobody uses: less than the server keeps it
GIVEN_UP = -1
_local = threading.local()


def order() -> dict[str, Any]:
    """One order: a product of the catalogue, paid from an account."""
    return {
        "user_id": f"bench-{random.randrange(USERS)}",
        "customer_id": "bench",
        "items": [{"sku": f"bench-{random.randrange(PRODUCTS)}", "quantity": 1, "price": 10.0}],
    }


@dataclass(frozen=True, order=True)
class Attempt:
    """An order to be sent at this second of the load."""

    at: float
    number: int
    body: bytes = field(compare=False)


@dataclass(frozen=True)
class Answer:
    """What became of an attempt, and when it did."""

    attempt: Attempt
    status: int
    took: float
    at: float
    retry_after: int = 0


def send(host: str, attempt: Attempt, *, began: float, longest_wait: float) -> Answer:
    """Send an order; status 0 says that no answer came, and GIVEN_UP that it was too late to send it."""
    sent_at = time.perf_counter()
    if sent_at - began > attempt.at + longest_wait:
        return Answer(attempt, GIVEN_UP, 0.0, sent_at - began)
    connection: HTTPConnection | None = getattr(_local, "connection", None)
    if connection is None or sent_at - _local.used_at > IDLE:
        if connection is not None:
            connection.close()
        connection = _local.connection = HTTPConnection(host, timeout=TIMEOUT)
    status = retry_after = 0
    try:
        connection.request("POST", "/orders", attempt.body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        status, retry_after = response.status, int(response.headers["Retry-After"] or 0)
    except (OSError, HTTPException):
        connection.close()
        _local.connection = None
    _local.used_at = now = time.perf_counter()
    return Answer(attempt, status, now - sent_at, now - began, retry_after)


def run(url: str, *, rate: float, seconds: float, longest_wait: float, clients: int, obedient: float) -> list[Answer]:
    """Send orders, some of them again; all answers in the order in which they came."""
    host, answers, came = urlsplit(url).netloc, list[Answer](), SimpleQueue[Answer]()
    due = [Attempt(number / rate, number, json.dumps(order()).encode()) for number in range(int(rate * seconds))]
    began, asked = time.perf_counter(), 0

    def work(attempt: Attempt) -> None:
        came.put(send(host, attempt, began=began, longest_wait=longest_wait))

    with ThreadPoolExecutor(max_workers=clients) as pool:
        while due or len(answers) < asked:
            now = time.perf_counter() - began
            while due and due[0].at <= now:
                pool.submit(work, heappop(due))
                asked += 1
            try:
                answer = came.get(timeout=max(0.0, due[0].at - now) if due else None)
            except Empty:
                continue
            answers.append(answer)
            again = answer.at + answer.retry_after
            if answer.status == 503 and again < seconds and answer.attempt.number % 100 < 100 * obedient:
                heappush(due, replace(answer.attempt, at=again))
    return answers


def main(
    url: str, rate: float, seconds: float, longest_wait: float = math.inf, clients: float = CLIENTS, obedient: float = 0
) -> None:
    began = time.perf_counter()
    answers = run(url, rate=rate, seconds=seconds, longest_wait=longest_wait, clients=int(clients), obedient=obedient)
    took = time.perf_counter() - began
    last = {answer.attempt.number: answer.status for answer in answers}
    ends = Counter(last.values())
    latencies = sorted(answer.took for answer in answers if answer.status == 201)
    refused = [int(answer.at) for answer in answers if answer.status == 503]
    print(
        json.dumps(
            {
                "sent": len(last),
                "accepted": ends[201],
                "refused": ends[503],
                "given_up": ends[GIVEN_UP],
                "failed": len(last) - ends[201] - ends[503] - ends[GIVEN_UP],
                "refusals": len(refused),
                "refused_at": refused,
                "seconds": took,
                "cpu": time.process_time(),
                "post_p50": latencies[len(latencies) // 2] if latencies else None,
                "post_p95": latencies[len(latencies) * 95 // 100] if latencies else None,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
