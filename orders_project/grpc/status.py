"""Problems as gRPC statuses with google.rpc details, and the other way round."""

import json
from http import HTTPStatus

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from outbox import context

from ..http.errors import Problem

DOMAIN = "orders"

# Note [Details are small]: they are sent in the trailers, of which clients accept 8 KB, in base64.
MAX_DETAILS = 1500
MAX_TEXT = 300

CODES: dict[int, grpc.StatusCode] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    412: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
EXCEPTIONS = {
    "order_exists": grpc.StatusCode.ALREADY_EXISTS,
    "idempotency_key_reused": grpc.StatusCode.ALREADY_EXISTS,
    "overloaded": grpc.StatusCode.RESOURCE_EXHAUSTED,
}

# The problem for a status without our details, which comes from gRPC itself.
BARE: dict[grpc.StatusCode, Problem] = {
    grpc.StatusCode.UNAVAILABLE: Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "unavailable",
        "The order service is not available.",
        headers={"Retry-After": "5"},
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: Problem(
        HTTPStatus.GATEWAY_TIMEOUT, "timeout", "The order service took too long to answer."
    ),
    grpc.StatusCode.RESOURCE_EXHAUSTED: Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "overloaded",
        "There are too many requests at once.",
        headers={"Retry-After": "1"},
    ),
}


def code_of(problem: Problem) -> grpc.StatusCode:
    """The gRPC status code of a problem."""
    return EXCEPTIONS.get(problem.code) or CODES.get(problem.status, grpc.StatusCode.FAILED_PRECONDITION)


def status_of(problem: Problem) -> grpc.Status:
    """The status to end a call with for this problem. Details that do not fit are left out."""
    metadata = {name: json.dumps(value, default=str) for name, value in problem.extra.items()}
    if sum(map(len, metadata.values())) > MAX_DETAILS:
        metadata = {}
    metadata |= {"correlation_id": context.current().correlation_id, "http_status": str(int(problem.status))}
    packed = [details.ErrorInfo(reason=problem.code.upper(), domain=DOMAIN, metadata=metadata)]
    if problem.errors:
        bad = details.BadRequest()
        for path, message in ((path, message) for path, messages in problem.errors.items() for message in messages):
            if bad.ByteSize() < MAX_DETAILS:
                bad.field_violations.add(field=path[:MAX_TEXT], description=message[:MAX_TEXT])
        packed.append(bad)
    if "Retry-After" in problem.headers:
        packed.append(details.RetryInfo(retry_delay=Duration(seconds=int(problem.headers["Retry-After"]))))
    status = Status(code=code_of(problem).value[0], message=problem.detail[:MAX_TEXT])
    for detail in packed:
        wrapped = Packed()
        wrapped.Pack(detail)
        status.details.append(wrapped)
    return rpc_status.to_status(status)


def problem_in(error: grpc.RpcError) -> Problem:
    """The problem for which a call has failed."""
    status = rpc_status.from_call(error)
    info, errors, headers = details.ErrorInfo(), dict[str, list[str]](), dict[str, str]()
    for detail in status.details if status else ():
        bad, retry = details.BadRequest(), details.RetryInfo()
        if detail.Unpack(bad):
            for violation in bad.field_violations:
                errors.setdefault(violation.field, []).append(violation.description)
        elif detail.Unpack(retry):
            headers["Retry-After"] = str(retry.retry_delay.seconds)
        else:
            detail.Unpack(info)
    if not info.reason:
        bare = Problem(HTTPStatus.BAD_GATEWAY, "bad_gateway", "The order service did not answer as expected.")
        return BARE.get(error.code(), bare)
    metadata = dict(info.metadata)
    metadata.pop("correlation_id", "")
    http_status = int(metadata.pop("http_status"))
    if http_status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="orders"'
    extra = {name: json.loads(value) for name, value in metadata.items()}
    return Problem(http_status, info.reason.lower(), status.message, errors, extra, headers)
