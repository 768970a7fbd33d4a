"""The gRPC server: authentication, correlation, deadlines and errors around the methods of the services."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import grpc
from django.conf import settings
from django.db import close_old_connections, connections
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from grpc_reflection.v1alpha import reflection
from rest_framework.exceptions import NotAuthenticated

from common.addresses import address_of
from orders.grpc import Call, OrderService
from orders.protos import order_service_pb2, order_service_pb2_grpc
from outbox import context, tracing
from outbox.metrics import Few, histogram

from ..auth import authentication as auth
from ..http.errors import INTERNAL, CallFailed, Problem, problem_of
from .status import status_of

logger = logging.getLogger(__name__)

SERVICE = order_service_pb2.DESCRIPTOR.services_by_name["OrderService"].full_name
MAX_SECONDS = 30.0  # for a call without a deadline
MALFORMED = Problem(HTTPStatus.BAD_REQUEST, "malformed", "The message cannot be parsed.")
TOO_LATE = Problem(HTTPStatus.GATEWAY_TIMEOUT, "timeout", "The deadline has passed.")
GRPC_SECONDS = histogram("grpc_request_seconds", "Time to answer a gRPC call.", "method", "code")
_few = Few()
FORBIDDEN = Problem(HTTPStatus.FORBIDDEN, "permission_denied", "This token does not allow that.")


class Server:
    """The server and its health service. `port` is the port that it listens on."""

    def __init__(self, *, host: str, port: int, threads: int) -> None:
        self.health = HealthServicer()
        self.grpc = grpc.server(
            ThreadPoolExecutor(threads, thread_name_prefix="grpc"),
            interceptors=[
                Interceptor(scopes={f"/{SERVICE}/{name}": scope for name, scope in OrderService.scopes.items()})
            ],
            options=[
                ("grpc.max_receive_message_length", settings.DATA_UPLOAD_MAX_MEMORY_SIZE),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=threads * 20,
        )
        order_service_pb2_grpc.add_OrderServiceServicer_to_server(OrderService(), self.grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.grpc)
        names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.grpc)
        self.port: int = self.grpc.add_insecure_port(f"{host}:{port}")

    def start(self) -> None:
        self.grpc.start()
        for service in ("", SERVICE):
            self.health.set(service, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, *, grace: float) -> None:
        """Report it as not serving, refuse new calls, and give running calls `grace` seconds to end."""
        self.health.enter_graceful_shutdown()
        self.grpc.stop(grace).wait()


class Interceptor(grpc.ServerInterceptor):
    """Wraps every call: see `intercept_service`."""

    def __init__(self, scopes: Mapping[str, str]) -> None:
        self.scopes = scopes

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        handler = continuation(details)
        if handler is None or handler.request_streaming:
            return handler
        parse, serialize = handler.request_deserializer, handler.response_serializer
        scope = self.scopes.get(details.method)

        # Note [Messages are parsed here]: gRPC itself answers INTERNAL if it cannot parse one, as if the server had
        # failed.
        def answer(raw: bytes, call: grpc.ServicerContext) -> Any:
            with _errors_as_status(call), _observed(details.method):
                message = _parsed(parse, raw)
                return handler.unary_unary(message, call) if scope is None else _admit(handler, message, call, scope)

        def stream(raw: bytes, call: grpc.ServicerContext) -> Iterator[Any]:
            with _errors_as_status(call):
                message = _parsed(parse, raw)
            yield from handler.unary_stream(message, call)

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, None, serialize)
        return grpc.unary_unary_rpc_method_handler(answer, None, serialize)


def _parsed(parse: Callable[[bytes], Any], raw: bytes) -> Any:
    try:
        return parse(raw)
    except DecodeError:
        raise CallFailed(MALFORMED) from None


class _errors_as_status:  # noqa: N801 - a context manager
    """A context in which a call has its correlation id, and what it raises becomes its status."""

    def __init__(self, call: grpc.ServicerContext) -> None:
        self.call = call
        metadata = _metadata(call)
        self.acting = context.acting(
            context.Context(
                correlation_id=context.accepted_correlation_id(metadata.get("x-correlation-id")),
                traceparent=tracing.accepted(metadata.get("traceparent")),
            )
        )

    def __enter__(self) -> None:
        here = self.acting.__enter__()
        self.call.send_initial_metadata((("x-correlation-id", here.correlation_id),))

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if isinstance(error, Exception):
                self.call.abort_with_status(status_of(_problem(error, self.call)))
        finally:
            self.acting.__exit__(None, None, None)


@contextmanager
def _observed(method: str) -> Iterator[None]:
    """Trace a call, and measure its time by its result."""
    began, code = time.monotonic(), "ok"
    try:
        with tracing.span(method.lstrip("/"), kind="server"):
            yield
    except Exception as error:
        code = _few((problem_of(error) or INTERNAL).code)
        raise
    finally:
        GRPC_SECONDS.labels(method.rpartition("/")[2], code).observe(time.monotonic() - began)


def _problem(error: Exception, call: grpc.ServicerContext) -> Problem:
    problem = problem_of(error)
    if problem is None:
        logger.error("A call failed", exc_info=error)
        return INTERNAL
    late = problem.status == HTTPStatus.SERVICE_UNAVAILABLE and _time_left(call) <= 0
    return TOO_LATE if late else problem


def _admit(handler: grpc.RpcMethodHandler, message: Any, call: grpc.ServicerContext, scope: str) -> Any:
    metadata = _metadata(call)
    left = _time_left(call)
    if left <= 0:
        raise CallFailed(TOO_LATE)
    principal = auth.identify(metadata.get("authorization"))
    if not principal.may(scope):
        raise CallFailed(FORBIDDEN) if principal.name else NotAuthenticated
    forwarded = [metadata["x-forwarded-for"]] if "x-forwarded-for" in metadata else []
    admitted = Call(principal=principal, address=address_of(_peer(call), forwarded), metadata=metadata)
    close_old_connections()
    try:
        _limit_statements(left)
        answer = handler.unary_unary(message, admitted)
    finally:
        close_old_connections()
    call.set_trailing_metadata(tuple(admitted.trailing.items()))
    return answer


def _limit_statements(seconds: float) -> None:
    """Let no statement of this connection run longer than the client waits."""
    with connections["orders"].cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', %s, false)", [f"{max(1, int(seconds * 1000))}ms"])


def _metadata(call: grpc.ServicerContext) -> dict[str, str]:
    return {item.key: item.value for item in call.invocation_metadata() if isinstance(item.value, str)}


def _time_left(call: grpc.ServicerContext) -> float:
    remaining = call.time_remaining()
    return MAX_SECONDS if remaining is None else min(float(remaining), MAX_SECONDS)


def _peer(call: grpc.ServicerContext) -> str:
    """The address in "ipv4:127.0.0.1:5000" or "ipv6:%5B::1%5D:5000"."""
    _, _, place = unquote(call.peer()).partition(":")
    return place.rpartition(":")[0].strip("[]")
