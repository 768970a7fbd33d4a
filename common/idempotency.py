"""
One response per key: a request that is repeated with its `Idempotency-Key` gets the response to the first one.

The response is committed together with the effect of the request, so that a crash leaves both or neither. A running
request holds an advisory lock, which ends with its transaction: no key stays locked after a crash.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection
from datetime import datetime
from functools import partial
from typing import Any

from django.conf import settings
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

from . import client_limits, locks
from .errors import Refusal

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
MAX_KEY_LENGTH = 255
NOT_STORED = {400, 401, 403, 413, 415, 429}  # of requests that are not valid, or that were not looked at
MAX_ANSWER = 256 * 1024  # bytes
COUNTED_FOR = 60.0  # seconds until the keys of a principal are counted again
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
        indexes = [models.Index(fields=["principal"], name="%(app_label)s_answers_of_client")]

    def __str__(self) -> str:
        return self.key

    @property
    def has_answer(self) -> bool:
        """Whether a repeated request is answered from here: see `keep`."""
        return self.fingerprint != ""

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


class TooManyKeys(Refusal):
    """The principal has as many keys as are kept for one."""

    code = "too_many_idempotency_keys"

    def __init__(self) -> None:
        super().__init__(
            f"No more than {settings.IDEMPOTENCY_MAX_KEYS} keys are kept for one client.",
            extra={"retry_after": int(COUNTED_FOR)},
        )


class AnswerTooLarge(Refusal):
    """The answer is larger than what is kept under a key."""

    code = "answer_too_large"


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
    prepare: Callable[[], None] | None = None,
    extra_fields: Callable[[], dict[str, Any]] = dict,
    not_stored: Collection[str] = (),
) -> HttpResponse:
    """
    Return the response of `perform`, which runs only once for each `Idempotency-Key`.

    The request is first counted against the limits of its principal and its address. `perform` runs in a transaction of
    the service's database. A refusal is stored as well, and only the refusal. What was no valid request is not stored,
    nor is a server error. `prepare` is called before the transaction, unless the request is repeated: it may wait for
    others, and what it raises is not stored. `extra_fields` is called after `perform`, and returns the values of
    further fields to store. `not_stored` names fields of the answer that contain secrets: a replayed answer has null in
    their place.
    """
    answered = partial(
        _answered, view, request, perform, answers=answers, principal=principal, prepare=prepare,
        extra_fields=extra_fields, not_stored=not_stored,
    )  # fmt: skip
    return client_limits.counted(request._request, answered, principal=principal)


def _answered(
    view: APIView,
    request: Request,
    perform: Callable[[], HttpResponse],
    *,
    answers: type[StoredAnswer],
    principal: str,
    prepare: Callable[[], None] | None,
    extra_fields: Callable[[], dict[str, Any]],
    not_stored: Collection[str],
) -> HttpResponse:
    key = request.headers.get(HEADER)
    if key is None:
        if prepare is not None:
            prepare()
        return perform()
    check_key(key)
    asked = fingerprint(request)
    using = router.db_for_write(answers)
    stored = answers._base_manager.filter(principal=principal, key=key)
    if prepare is not None:
        if (known := stored.first()) is not None and known.has_answer:
            return _replayed(known, asked)
        prepare()
    with transaction.atomic(using=using):
        if not _try_lock(using, principal, key):
            raise StillRunning("The first request with this key is still running.", extra={"retry_after": RETRY_AFTER})
        if (known := stored.first()) is not None and known.has_answer:
            return _replayed(known, asked)
        if known is None and is_full(answers, principal):
            raise TooManyKeys
        try:
            with transaction.atomic(using=using):
                response = perform()
        except DatabaseError:
            raise  # the transaction is broken
        except Exception as refusal:
            response = view.handle_exception(refusal)  # raises whatever is not a refusal again
        if response.status_code < 500 and response.status_code not in NOT_STORED:
            answer = _body(response, without=not_stored)
            if len(answer) > MAX_ANSWER:
                raise AnswerTooLarge("The answer is too large to be kept. Send the request without a key.")
            values = {
                "fingerprint": asked,
                "answer_status": response.status_code,
                "answer": answer.decode(),
                "answer_headers": {name: value for name, value in response.items() if name != "Content-Type"},
            }
            if known is None:
                now = clock.now(using)
                answers._base_manager.create(principal=principal, key=key, created_at=now, **values, **extra_fields())
            else:  # what it was used for before stays
                stored.update(**values)
    return response


def wait_for(answers: type[StoredAnswer], *, principal: str, key: str) -> None:
    """Wait until no request runs under this key; none begins until the transaction around this call ends."""
    locks.take_turn(router.db_for_write(answers), _lock_of(principal, key))


def keep(answers: type[StoredAnswer], *, principal: str, key: str, **fields: Any) -> None:
    """
    Keep that a key was used, with the values of further fields, and without an answer, unless there is one.

    The next request under the key is looked at, and its answer kept. Call `wait_for` before, in the same transaction.

    :raises TooManyKeys: if the principal has as many keys as are kept for one
    """
    if answers._base_manager.filter(principal=principal, key=key).update(**fields):
        return
    if is_full(answers, principal):
        raise TooManyKeys
    now = clock.now(router.db_for_write(answers))
    answers._base_manager.create(principal=principal, key=key, answer_status=0, created_at=now, **fields)


_counted: dict[tuple[str, str], tuple[float, bool]] = {}  # when, and whether that was all that is kept


def is_full(answers: type[StoredAnswer], principal: str) -> bool:
    """
    Whether a principal has as many keys as are kept for one.

    # Note [Counted once a minute]: counting on every request would cost more than the request. Each process counts a
    # principal's keys once a minute; what comes in meanwhile is limited by the requests a minute.
    """
    if not settings.IDEMPOTENCY_MAX_KEYS:
        return False
    now = time.monotonic()
    counted_at, full = _counted.get((answers._meta.db_table, principal), (-math.inf, False))
    if now - counted_at >= COUNTED_FOR:
        kept = answers._base_manager.filter(principal=principal)[: settings.IDEMPOTENCY_MAX_KEYS].count()
        full = kept >= settings.IDEMPOTENCY_MAX_KEYS
        _counted[answers._meta.db_table, principal] = now, full
    return full


def _body(response: HttpResponse, *, without: Collection[str]) -> bytes:
    if not isinstance(response, Response):
        return response.content
    left_out = {name: None for name in without if name in response.data}
    return JSONRenderer().render(response.data | left_out if left_out else response.data)


def _replayed(known: StoredAnswer, asked: str) -> HttpResponse:
    if known.fingerprint != asked:
        raise KeyReused("This key was already used for another request.")
    headers = known.answer_headers | {REPLAYED: "true"}
    if known.answer_status < 400:
        return Response(_parsed(known.answer), known.answer_status, headers=headers)
    return HttpResponse(known.answer, PROBLEM, known.answer_status, headers=headers)


def _parsed(answer: str) -> Any:
    return json.loads(answer or "null")


def _try_lock(using: str, principal: str, key: str) -> bool:
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [_lock_of(principal, key)])
        return bool(cursor.fetchone()[0])


def _lock_of(principal: str, key: str) -> str:
    return f"idempotency {principal!r} {key!r}"


def fingerprint(request: Request) -> str:
    """A hash of the method, the path with its query, and the parsed body: equal for a repeated request."""
    body = json.dumps(request.data, sort_keys=True, default=str)
    return hashlib.sha256("\n".join([request.method or "", request.get_full_path(), body]).encode()).hexdigest()
