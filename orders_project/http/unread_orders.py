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
from collections.abc import Mapping

from django.conf import settings
from django.utils import translation
from django.utils.datastructures import CaseInsensitiveMapping

from orders import shedding
from outbox import context

from . import headers
from .errors import problem_of

LARGEST = 16 * 1024  # bytes of a request that is looked at
PLACES_AN_ORDER = re.compile(rb"POST /orders/? HTTP/1\.1\r\n(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n)+")
SPECIAL = ("Idempotency-Key", "Transfer-Encoding", "Expect", "Upgrade")
KEPT = "keep-alive"
NAMED = re.compile(rb"order_id|\\")  # what is written with escapes is not deciphered here


def refuse(sock: socket.socket, *, is_kept: bool = True) -> bool:
    """
    Read and refuse the request that has arrived at this socket, if it is plain and to be refused; whether it was.

    :param is_kept: whether the client is told that it can use the connection again

    :raises OSError: if it was read, and its client could not be answered
    """
    if "orders" not in settings.SERVICES_HERE or not settings.SHED_ABOVE:
        return False
    with translation.override(settings.LANGUAGE_CODE):  # not that of the page which this thread has shown last
        refusal = shedding.draw(shedding.last_backlog())
    if refusal is None or (given := _plain(sock)) is None:
        return False
    with context.acting(context.Context(correlation_id=headers.correlation_id(given))) as here:
        problem = problem_of(refusal.counted())
        assert problem is not None
        answer = problem.response()
    for name, value in headers.of_every_answer(here.correlation_id).items():
        answer[name] = value
    answer["Content-Length"] = str(len(answer.content))
    if not is_kept:
        answer["Connection"] = "close"
    head = "".join(f"{name}: {value}\r\n" for name, value in answer.items())
    sock.sendall(f"HTTP/1.1 503 Service Unavailable\r\n{head}\r\n".encode() + answer.content)
    return True


def _plain(sock: socket.socket) -> Mapping[str, str] | None:
    """
    The headers of a request that places an order without any name, which is read then; none of any other.

    # Note [Whatever can be understood in two ways is not plain]: where a proxy sees the end of a request elsewhere, the
    # rest of it would be taken for a request of its own, in the name of whoever comes next on that connection. So a
    # header that comes twice, or a line that is not exactly a header, is left to gunicorn, which refuses it.
    """
    try:
        arrived = sock.recv(LARGEST, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return None
    head, end, body = arrived.partition(b"\r\n\r\n")
    if not end or not PLACES_AN_ORDER.fullmatch(head + b"\r\n") or NAMED.search(body):
        return None
    lines = [line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:]]
    given = CaseInsensitiveMapping([(name, value.strip(" \t")) for name, _, value in lines])
    is_clear = len(given) == len(lines) and given.get("Content-Length") == str(len(body))
    is_special = any(name in given for name in SPECIAL) or given.get("Connection", KEPT).lower() != KEPT
    if not is_clear or is_special:
        return None
    sock.recv(len(arrived))
    return given
