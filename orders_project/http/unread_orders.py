"""
Refusing new orders where they arrive, before anything is done for them.

# Note [Refusing must cost next to nothing]: of three times the requests that the web can answer two thirds are refused.
# Behind Django, its middleware and the authentication, to refuse costs a third of what to accept costs: then hardly any
# time would be left for accepting. So the plainest requests are refused here, at some hundredths of that: those that
# place an order which cannot have been placed before, as they have neither a key nor an order id. All others go on to
# Django, where the same rule (orders/shedding.py) awaits them, and what refuses them there answers just so.
"""

import re
import socket

from django.conf import settings

from orders import shedding
from outbox import context

from . import headers
from .errors import problem_of

LARGEST = 16 * 1024  # bytes of a request that is looked at
PLACES_AN_ORDER = re.compile(rb"POST /orders/? HTTP/1\.1\r\n")
SPECIAL = re.compile(
    rb"\r\n(idempotency-key|transfer-encoding|expect|upgrade|connection)[ \t]*:(?![ \t]*keep-alive[ \t]*\r\n)",
    re.IGNORECASE,
)
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,5})[ \t]*(?=\r\n)", re.IGNORECASE)
NAMED = re.compile(rb"order_id|\\")  # what is written with escapes is not deciphered here


def refuse(sock: socket.socket) -> bool:
    """
    Read and refuse the request that has arrived at this socket, if it is plain and to be refused; whether it was.

    :raises OSError: if it was read, and its client could not be answered
    """
    if "orders" not in settings.SERVICES_HERE or not settings.SHED_ABOVE:
        return False
    refusal = shedding.draw(shedding.last_backlog())
    if refusal is None or (sent := _plain(sock)) is None:
        return False
    lines = (line.decode("latin-1").partition(":") for line in sent.splitlines()[1:])
    given = {name.title().replace("-Id", "-ID"): value.strip() for name, _, value in lines}
    with context.acting(context.Context(correlation_id=headers.correlation_id(given))) as here:
        problem = problem_of(refusal.counted())
        assert problem is not None
        answer = problem.response()
    for name, value in headers.of_every_answer(here.correlation_id).items():
        answer[name] = value
    answer["Content-Length"] = str(len(answer.content))
    head = "".join(f"{name}: {value}\r\n" for name, value in answer.items())
    sock.sendall(f"HTTP/1.1 503 Service Unavailable\r\n{head}\r\n".encode() + answer.content)
    return True


def _plain(sock: socket.socket) -> bytes | None:
    """The head of a request that places an order without any name, which is read then; none of any other."""
    try:
        arrived = sock.recv(LARGEST, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return None
    head, end, body = arrived.partition(b"\r\n\r\n")
    lengths = LENGTH.findall(head := head + b"\r\n")
    is_whole = bool(end) and len(lengths) == 1 and int(lengths[0]) == len(body)
    if not is_whole or not PLACES_AN_ORDER.match(head) or SPECIAL.search(head) or NAMED.search(body):
        return None
    sock.recv(len(arrived))
    return head
