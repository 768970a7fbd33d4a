"""Every error of every endpoint in one form: a problem (RFC 9457) with a stable code."""

import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.core.exceptions import ValidationError as ModelValidationError
from django.db import Error as DatabaseError
from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from django.http.response import HttpResponseBase
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.utils.encoders import JSONEncoder
from rest_framework.views import set_rollback

from common.client_limits import LimitReached
from common.errors import Refusal
from outbox import context
from outbox.errors import OutboxError
from outbox.sqlstates import is_unavailable, note

from . import error_pages
from .problem_types import STATUS, code_of

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

# Codes of Django and DRF that get a clearer name.
RENAMED = {"error": "refused", "throttled": "rate_limited", "parse_error": "malformed"}

Errors = Mapping[str, list[str]]


@dataclass(frozen=True)
class Problem:
    """An error, independent of the protocol that it is answered in."""

    status: int
    code: str
    detail: str
    errors: Errors = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return self.code.replace("_", " ").capitalize()

    def body(self) -> dict[str, object]:
        """The members of the problem document."""
        return {
            **self.extra,
            "type": f"{settings.PUBLIC_URL}/problems/{self.code}",
            "title": self.title,
            "status": int(self.status),
            "detail": self.detail,
            "code": self.code,
            "correlation_id": context.current().correlation_id,
            **({"errors": self.errors} if self.errors else {}),
        }

    def response(self) -> HttpResponse:
        content = json.dumps(self.body(), cls=JSONEncoder, ensure_ascii=False)
        return HttpResponse(content, status=self.status, content_type=MEDIA_TYPE, headers=dict(self.headers))


class CallFailed(Exception):
    """A call has ended with this problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def problem_of(error: BaseException) -> Problem | None:
    """The problem to answer an error with; none for an error of the server itself, which is not described."""
    match error:
        case CallFailed():
            return error.problem
        case LimitReached():
            problem = _of_code(error.code, str(error), extra=error.extra)
            return replace(problem, headers={**problem.headers, **error.headers})
        case Refusal():
            return _of_code(error.code, str(error), errors=error.errors, extra=error.extra)
        case OutboxError():
            return _of_code(error.code, str(error))
        case exceptions.ValidationError():
            return Problem(HTTPStatus.BAD_REQUEST, "invalid", "The request is not valid.", errors=by_path(error.detail))
        case exceptions.APIException():
            return _of_api_exception(error)
        case ModelValidationError():
            problems = error.message_dict if hasattr(error, "error_dict") else {"body": error.messages}
            return Problem(HTTPStatus.BAD_REQUEST, "invalid", "The request is not valid.", errors=problems)
        case Http404():
            return NOT_FOUND
        case PermissionDenied():
            return Problem(HTTPStatus.FORBIDDEN, "permission_denied", "You do not have permission to do this.")
        case RequestDataTooBig():
            return TOO_LARGE
        case UnreadablePostError():
            return Problem(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", "The body did not arrive in time.")
        case DisallowedHost():
            return Problem(
                HTTPStatus.BAD_REQUEST, "malformed", "This system is not served under the host name in `Host`."
            )
        case SuspiciousOperation():
            return Problem(HTTPStatus.BAD_REQUEST, "malformed", "The request is malformed.")
        case DatabaseError() if is_unavailable(error):
            return UNAVAILABLE
    return None


NOT_FOUND = Problem(HTTPStatus.NOT_FOUND, "not_found", "There is nothing at this address.")
TOO_LARGE = Problem(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "too_large",
    f"A body must not be larger than {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes.",
)
UNAVAILABLE = Problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "unavailable",
    "A part of the system is not available. Try again.",
    headers={"Retry-After": "5"},
)


INTERNAL = Problem(
    HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "The server failed. Report it with the correlation id."
)


def _of_code(
    code: str, detail: str, *, errors: Errors | None = None, extra: Mapping[str, object] | None = None
) -> Problem:
    extra = dict(extra or {})
    headers = {"Retry-After": str(extra["retry_after"])} if "retry_after" in extra else {}
    return Problem(STATUS.get(code, HTTPStatus.CONFLICT), code, detail, errors or {}, extra, headers)


def _of_api_exception(error: exceptions.APIException) -> Problem:
    code = error.get_codes() if isinstance(error.detail, str) else error.default_code
    headers = {}
    if auth := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = auth
    if wait := getattr(error, "wait", None):
        headers["Retry-After"] = str(int(wait))
    detail = str(error.detail) if isinstance(error.detail, str) else str(error.default_detail)
    if isinstance(error, exceptions.UnsupportedMediaType):
        detail += " Send JSON, with the header Content-Type: application/json."
    return Problem(error.status_code, RENAMED.get(str(code), str(code)), detail, headers=headers)


def by_path(detail: Any, path: str = "") -> dict[str, list[str]]:
    """The errors of a serializer by path: {'items[0].price': ['A valid number is required.']}."""
    if isinstance(detail, Mapping):
        found: dict[str, list[str]] = {}
        for name, inner in detail.items():
            if name == "non_field_errors":
                where = path
            elif isinstance(name, int):
                where = f"{path}[{name}]"
            else:
                where = f"{path}.{name}" if path else str(name)
            for key, messages in by_path(inner, where).items():
                found.setdefault(key, []).extend(messages)
        return found
    if isinstance(detail, list) and any(isinstance(each, Mapping | list) for each in detail):
        return by_path({index: each for index, each in enumerate(detail) if each}, path)
    messages = detail if isinstance(detail, list) else [detail]
    return {path or "body": [str(message) for message in messages]}


# The handlers of DRF and Django -------------------------------------------------------------------------------------


def handle(error: Exception, where: dict[str, Any]) -> HttpResponseBase | None:
    """DRF's EXCEPTION_HANDLER. An error for which it returns none goes to Django's handlers below."""
    problem = problem_of(error)
    if problem is None:
        return None
    set_rollback()
    if problem is UNAVAILABLE:
        note(error, where=str(where["request"].path) if where.get("request") else "http")
    renderer = getattr(where.get("request"), "accepted_renderer", None)
    if renderer is not None and renderer.format == "api":
        return Response(problem.body(), status=problem.status, headers=dict(problem.headers))
    return problem.response()


def wants_html(request: HttpRequest) -> bool:
    """Whether this is a page of the admin, where errors are pages too, in a process that serves the admin."""
    path = request.path_info
    return settings.BACK_OFFICE and path.startswith("/admin/") and not path.startswith("/admin/products")


def answer(request: HttpRequest, problem: Problem) -> HttpResponse:
    """The answer to a request that has ended with this problem: a page in the admin, else the problem document."""
    if not wants_html(request):
        return problem.response()
    return HttpResponse(
        error_pages.content(problem.code, problem.status, request=request),
        status=problem.status,
        headers=dict(problem.headers),
    )


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    problem = problem_of(exception) or Problem(HTTPStatus.BAD_REQUEST, "malformed", "The request is malformed.")
    return answer(request, problem)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    problem = problem_of(exception) or Problem(
        HTTPStatus.FORBIDDEN, "permission_denied", "You do not have permission to do this."
    )
    return answer(request, problem)


def page_not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    return answer(request, NOT_FOUND)


def server_error(request: HttpRequest) -> HttpResponseBase:
    """Called where an exception is handled, be it one of a middleware that had lost its database."""
    error = sys.exception()
    if error is None or not is_unavailable(error):
        return answer(request, INTERNAL)
    note(error, where=request.path)
    return answer(request, UNAVAILABLE)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponseBase:
    problem = Problem(HTTPStatus.FORBIDDEN, "csrf_failed", "The CSRF token of the form is missing or wrong.")
    return answer(request, problem)


class ErrorBodies:
    """
    Middleware that gives a body to the errors that plain views answer with an empty one, such as a 405.

    It also answers for a plain view whose database is unavailable.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        if not is_unavailable(exception):
            return None
        note(exception, where=request.path)
        return answer(request, UNAVAILABLE)

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if response.status_code < HTTPStatus.BAD_REQUEST or getattr(response, "content", None):
            return response
        if request.method == "HEAD":
            return response
        status = HTTPStatus(response.status_code)
        headers = {name: value for name, value in response.items() if name not in ("Content-Type", "Content-Length")}
        return answer(request, Problem(status, code_of(status), f"{status.phrase}.", headers=headers))
