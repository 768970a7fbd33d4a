"""
One response per key: a request that is repeated with its `Idempotency-Key` gets the response to the first one.

The response is committed together with the effect of the request, so that a crash leaves both or neither. A running
request holds an advisory lock, which ends with its transaction: no key stays locked after a crash.
"""

import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.db import DatabaseError, connections, models, router, transaction
from django.http import HttpResponse
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiParameter
from rest_framework.exceptions import ValidationError
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from outbox import clock

from .errors import Refusal

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
MAX_KEY_LENGTH = 255
NOT_STORED = {401, 403, 429}  # sent before the request was looked at
RETRY_AFTER = 1  # second
PROBLEM = "application/problem+json"
PARAMETER = OpenApiParameter(
    HEADER,
    {"type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
    OpenApiParameter.HEADER,
    description="A request that is repeated with the same key gets the response to the first one.",
)


class StoredAnswer(models.Model):
    """The response to a request. Each service has a table of its own: see `IdempotencyKey` in its models."""

    principal = models.CharField(_("principal"), max_length=100)
    key = models.CharField(_("key"), max_length=MAX_KEY_LENGTH)
    fingerprint = models.CharField(_("request fingerprint"), max_length=64)
    answer_status = models.PositiveSmallIntegerField(_("answer status"))
    answer = models.TextField(_("answer"), blank=True)  # text, because jsonb would reorder its fields
    answer_headers = models.JSONField(_("answer headers"), default=dict)
    created_at = models.DateTimeField(_("created at"), db_index=True)

    class Meta:
        abstract = True
        verbose_name = _("idempotency key")
        verbose_name_plural = _("idempotency keys")
        constraints = [models.UniqueConstraint(fields=["key", "principal"], name="%(app_label)s_one_answer_per_key")]

    def __str__(self) -> str:
        return self.key

    @classmethod
    def forget(cls, *, before: datetime, limit: int = 1000) -> int:
        """Delete responses older than `before`, at most `limit` of them; return how many were deleted."""
        old = cls._base_manager.filter(created_at__lt=before).order_by("created_at").values("pk")[:limit]
        return cls._base_manager.filter(pk__in=list(old.values_list("pk", flat=True))).delete()[0]


class KeyReused(Refusal):
    """The key was used for another request."""

    code = "idempotency_key_reused"


class StillRunning(Refusal):
    """The first request with this key has not been answered yet."""

    code = "idempotency_key_in_use"


def check_key(key: str) -> None:
    """:raises ValidationError: if a client may not use this key"""
    if not (1 <= len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable()):
        raise ValidationError({HEADER: [f"A key must have 1 to {MAX_KEY_LENGTH} printable ASCII characters."]})


def answer_once(
    view: APIView,
    request: Request,
    perform: Callable[[], HttpResponse],
    *,
    answers: type[StoredAnswer],
    principal: str,
    extra_fields: Callable[[Any], dict[str, Any]] = lambda answer: {},
) -> HttpResponse:
    """
    Return the response of `perform`, which runs only once for each `Idempotency-Key`.

    `perform` runs in a transaction of the service's database. A refusal is stored as well, and only the refusal; a
    server error is not. `extra_fields` returns the values of further fields to store with the response.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return perform()
    check_key(key)
    asked = fingerprint(request)
    using = router.db_for_write(answers)
    with transaction.atomic(using=using):
        if not _try_lock(using, principal, key):
            raise StillRunning("The first request with this key is still running.", extra={"retry_after": RETRY_AFTER})
        known = answers._base_manager.filter(principal=principal, key=key).first()
        if known is not None:
            if known.fingerprint != asked:
                raise KeyReused("This key was already used for another request.")
            return _replayed(known)
        try:
            with transaction.atomic(using=using):
                response = perform()
        except DatabaseError:
            raise  # the transaction is broken
        except Exception as refusal:
            response = view.handle_exception(refusal)  # raises whatever is not a refusal again
        if response.status_code < 500 and response.status_code not in NOT_STORED:
            answer = _body(response).decode()
            answers._base_manager.create(
                principal=principal,
                key=key,
                fingerprint=asked,
                answer_status=response.status_code,
                answer=answer,
                answer_headers={name: value for name, value in response.items() if name != "Content-Type"},
                created_at=clock.now(using),
                **extra_fields(_parsed(answer)),
            )
    return response


def _body(response: HttpResponse) -> bytes:
    return JSONRenderer().render(response.data) if isinstance(response, Response) else response.content


def _replayed(known: StoredAnswer) -> HttpResponse:
    headers = known.answer_headers | {REPLAYED: "true"}
    if known.answer_status < 400:
        return Response(_parsed(known.answer), known.answer_status, headers=headers)
    return HttpResponse(known.answer, PROBLEM, known.answer_status, headers=headers)


def _parsed(answer: str) -> Any:
    return json.loads(answer or "null")


def _try_lock(using: str, principal: str, key: str) -> bool:
    with connections[using].cursor() as cursor:
        cursor.execute(
            "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [f"idempotency {principal!r} {key!r}"]
        )
        return bool(cursor.fetchone()[0])


def fingerprint(request: Request) -> str:
    """A hash of the method, the path with its query, and the parsed body: equal for a repeated request."""
    body = json.dumps(request.data, sort_keys=True, default=str)
    return hashlib.sha256("\n".join([request.method or "", request.get_full_path(), body]).encode()).hexdigest()
