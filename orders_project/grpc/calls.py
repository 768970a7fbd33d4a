"""
The calls of our methods: authentication, correlation, deadlines and errors around them.

# Note [Waiting costs no thread]: the message of a call is awaited in the event loop. Only when it is complete does a
# thread of a bounded pool work on it. So a client that opens streams and sends nothing holds no thread, and its call
# ends when its time for the message is over.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import unquote

import grpc
from django.conf import settings
from django.db import close_old_connections
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from rest_framework.exceptions import NotAuthenticated

from common import reads
from common.addresses import address_of
from orders.grpc import Call, OrderService
from orders.protos import order_service_pb2
from outbox import context, tracing
from outbox.metrics import Few, histogram
from outbox.sqlstates import note

from ..auth import authentication as auth
from ..http import headers
from ..http.errors import INTERNAL, UNAVAILABLE, CallFailed, Problem, problem_of
from .deadlines import statements_end_in
from .status import status_of

logger = logging.getLogger(__name__)

DESCRIPTOR = order_service_pb2.DESCRIPTOR.services_by_name["OrderService"]
SERVICE = DESCRIPTOR.full_name
IDS = tuple(name.lower() for name in headers.IDS)  # in the metadata of a call and of its answer
MAX_SECONDS = 30.0  # for a call without a deadline
MALFORMED = Problem(HTTPStatus.BAD_REQUEST, "malformed", "The message cannot be parsed.")
NO_MESSAGE = Problem(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", "The message did not arrive in time.")
TOO_LATE = Problem(HTTPStatus.GATEWAY_TIMEOUT, "timeout", "The deadline has passed.")
FORBIDDEN = Problem(HTTPStatus.FORBIDDEN, "permission_denied", "This token does not allow that.")
OVERLOADED = Problem(
    HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", "There are too many calls at once.", headers={"Retry-After": "1"}
)
GRPC_SECONDS = histogram("grpc_request_seconds", "Time to answer a gRPC call.", "method", "code")
_few = Few()


@dataclass(frozen=True)
class Arrived:
    """A call whose message is complete."""

    raw: bytes
    metadata: Mapping[str, str]
    peer: str
    ends: float  # its deadline, on the monotonic clock

    @property
    def seconds_left(self) -> float:
        return self.ends - time.monotonic()


class Calls:
    """
    Answers the calls of `OrderService`, `threads` at a time.

    :param waiting: how many complete calls may wait for a thread before further ones are refused
    :param message_timeout: the seconds in which the message of a call must arrive
    """

    def __init__(self, service: OrderService, *, threads: int, waiting: int, message_timeout: float) -> None:
        self._service = service
        self._message_timeout = message_timeout
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="grpc")
        self._places = threading.BoundedSemaphore(threads + waiting)

    def handler(self) -> grpc.GenericRpcHandler:
        """
        What to register with the server.

        The methods are registered as if the client sent a stream, which is the same on the wire: gRPC itself would
        wait for the message without a limit, and answer INTERNAL if it cannot parse it.
        """
        methods = {
            method.name: grpc.stream_unary_rpc_method_handler(self._method(method)) for method in DESCRIPTOR.methods
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def close(self) -> None:
        """Work on nothing that has not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _method(self, method: MethodDescriptor) -> Callable[[Any, Any], Awaitable[bytes]]:
        parse = GetMessageClass(method.input_type).FromString

        async def answer(_: Any, call: Any) -> bytes:
            metadata = {key: value for key, value in call.invocation_metadata() if isinstance(value, str)}
            correlation_id = context.accepted_correlation_id(*(metadata.get(name) for name in IDS))
            traceparent = tracing.accepted(metadata.get("traceparent"), correlation_id=correlation_id)
            here = context.Context(correlation_id=correlation_id, traceparent=traceparent)
            ids = tuple((name, correlation_id) for name in IDS)
            call.set_trailing_metadata(ids)
            with context.acting(here), _measured(method) as measure:
                await call.send_initial_metadata(ids)
                ends = time.monotonic() + _seconds_left(call)
                try:
                    raw = await self._message(call)
                    measure.begin()
                    arrived = Arrived(raw=raw, metadata=metadata, peer=call.peer(), ends=ends)
                    content, trailing = await self._in_a_thread(partial(self._work, method, parse, arrived))
                except CallFailed as failed:
                    measure.code = _few(failed.problem.code)
                    status = status_of(failed.problem)
                    await call.abort(status.code, status.details, (*status.trailing_metadata, *ids))
            call.set_trailing_metadata((*trailing, *ids))
            return content

        return answer

    async def _message(self, call: Any) -> bytes:
        try:
            async with asyncio.timeout(self._message_timeout):
                raw = await call.read()
        except TimeoutError:
            raise CallFailed(NO_MESSAGE) from None
        if not isinstance(raw, bytes):  # the stream ended without a message
            raise CallFailed(MALFORMED)
        return raw

    async def _in_a_thread(self, work: Callable[[], tuple[bytes, tuple[tuple[str, str], ...]]]) -> Any:
        if not self._places.acquire(blocking=False):
            raise CallFailed(OVERLOADED)
        running = self._pool.submit(copy_context().run, work)
        running.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(running)

    def _work(
        self, method: MethodDescriptor, parse: Callable[[bytes], Message], arrived: Arrived
    ) -> tuple[bytes, tuple[tuple[str, str], ...]]:
        """
        Answer a call: its content and trailing metadata.

        :raises CallFailed: for whatever goes wrong
        """
        try:
            with tracing.span(f"{SERVICE}/{method.name}", kind="server"):
                try:
                    message = parse(arrived.raw)
                except DecodeError:
                    raise CallFailed(MALFORMED) from None
                admitted = _admit(arrived, scope=self._service.scopes[method.name])
                answer = _within_deadline(arrived, partial(self._answer, method.name, message, admitted))
        except Exception as error:
            raise CallFailed(_problem(error, arrived)) from None
        return answer.SerializeToString(), tuple(admitted.trailing.items())

    def _answer(self, method: str, message: Message, call: Call) -> Message:
        answer: Message = getattr(self._service, method)(message, call)
        if settings.STANDBYS and self._service.scopes[method].endswith(":write"):
            reads.note_write(call.principal.name)
        return answer


class _measured:  # noqa: N801 - a context manager
    """Measures the time of a call by its result, from the moment when its message is complete."""

    def __init__(self, method: MethodDescriptor) -> None:
        self.method = method
        self.code = "ok"
        self.begin()

    def begin(self) -> None:
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        code = "cancelled" if isinstance(error, asyncio.CancelledError) else self.code
        GRPC_SECONDS.labels(self.method.name, code).observe(time.monotonic() - self._began)


def _admit(arrived: Arrived, *, scope: str) -> Call:
    if arrived.seconds_left <= 0:
        raise CallFailed(TOO_LATE)
    metadata = arrived.metadata
    principal = auth.identify(metadata.get("authorization"))
    if not principal.may(scope):
        raise CallFailed(FORBIDDEN) if principal.name else NotAuthenticated
    forwarded = [metadata["x-forwarded-for"]] if "x-forwarded-for" in metadata else []
    return Call(principal=principal, address=address_of(_address(arrived.peer), forwarded), metadata=metadata)


def _within_deadline(arrived: Arrived, method: Callable[[], Message]) -> Message:
    close_old_connections()
    try:
        with statements_end_in(arrived.seconds_left):
            return method()
    finally:
        close_old_connections()


def _problem(error: Exception, arrived: Arrived) -> Problem:
    problem = problem_of(error)
    if problem is None:
        logger.error("A call failed", exc_info=error)
        return INTERNAL
    if problem is UNAVAILABLE:
        note(error, where="gRPC")
    late = problem.status == HTTPStatus.SERVICE_UNAVAILABLE and arrived.seconds_left <= 0
    return TOO_LATE if late else problem


def _seconds_left(call: Any) -> float:
    remaining = call.time_remaining()
    return MAX_SECONDS if remaining is None else min(float(remaining), MAX_SECONDS)


def _address(peer: str) -> str:
    """The address in "ipv4:127.0.0.1:5000" or "ipv6:%5B::1%5D:5000"."""
    _, _, place = unquote(peer).partition(":")
    return place.rpartition(":")[0].strip("[]")
