"""
An open-loop load from a process of its own: orders arrive at their rate, whether or not the system keeps up.

    python -m benchmarks.load URL RATE SECONDS [LONGEST_WAIT]

As many orders as there are clients wait for an answer at the same time. An order that has waited for a free client for
more than LONGEST_WAIT seconds is given up; without that, all of them are sent in the end.

Prints one JSON line: how many were sent, accepted, refused (503: the system is busy), given up, and answered in any
other way or not at all; how late the answers came, and the CPU-seconds that sending took.
"""

import json
import math
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

USERS, PRODUCTS = 100, 50
CLIENTS = 64  # that wait for an answer at the same time
GIVEN_UP = -1
_local = threading.local()


def order() -> dict[str, Any]:
    """One order: a product of the catalogue, paid from an account."""
    return {
        "user_id": f"bench-{random.randrange(USERS)}",
        "customer_id": "bench",
        "items": [{"sku": f"bench-{random.randrange(PRODUCTS)}", "quantity": 1, "price": 10.0}],
    }


def send(host: str, body: bytes, *, before: float) -> tuple[int, float, float]:
    """The status of the answer (or GIVEN_UP), the seconds that it took, and when it came."""
    if time.perf_counter() > before:
        return GIVEN_UP, 0.0, time.perf_counter()
    connection: HTTPConnection | None = getattr(_local, "connection", None)
    if connection is None:
        connection = _local.connection = HTTPConnection(host, timeout=30)
    began = time.perf_counter()
    try:
        connection.request("POST", "/orders", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
    except (OSError, HTTPException):
        connection.close()
        _local.connection = None
        return 0, time.perf_counter() - began, time.perf_counter()
    return answer.status, time.perf_counter() - began, time.perf_counter()


def main(url: str, rate: float, seconds: float, longest_wait: float = math.inf) -> None:
    host = urlsplit(url).netloc
    count = int(rate * seconds)
    bodies = [json.dumps(order()).encode() for _ in range(count)]
    began = time.perf_counter()
    with ThreadPoolExecutor(max_workers=CLIENTS) as pool:
        waiting = []
        for number, body in enumerate(bodies):
            time.sleep(max(0.0, began + number / rate - time.perf_counter()))
            waiting.append(pool.submit(send, host, body, before=began + number / rate + longest_wait))
        answers = [one.result() for one in waiting]
    took = time.perf_counter() - began
    accepted = sorted(latency for status, latency, _at in answers if status == 201)
    given_up = sum(status == GIVEN_UP for status, _latency, _at in answers)
    refused = [int(at - began) for status, _latency, at in answers if status == 503]
    print(
        json.dumps(
            {
                "sent": count,
                "accepted": len(accepted),
                "refused": len(refused),
                "refused_at": refused,
                "given_up": given_up,
                "failed": count - len(accepted) - len(refused) - given_up,
                "seconds": took,
                "cpu": time.process_time(),
                "post_p50": accepted[len(accepted) // 2] if accepted else None,
                "post_p95": accepted[len(accepted) * 95 // 100] if accepted else None,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
