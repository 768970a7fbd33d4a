"""
Logs: each line is a JSON object, or readable text on a terminal. Secrets and whole email addresses are removed.

Everything uses the logging of the standard library. The request or message that a line is about is added to it.
"""

import logging
import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import structlog
from structlog.typing import EventDict, Processor

from outbox import context

HIDDEN = "***"
MIN_SECRET_LENGTH = 8  # hiding shorter strings would garble the logs

SECRET_NAME = re.compile(
    r"authorization|secret|passw|token|api[-_]?key|^key$|signature|cookie|credential|idempotency[-_]key", re.IGNORECASE
)
# Secrets that can be recognized in a text, each with what replaces it. A client chooses the text, so the time for each
# must grow with its length and not with its square: what begins a secret must not begin one again inside of it.
PATTERNS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{4,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"(://[^\s:/@]*):[^\s/@]+@"), rf"\1:{HIDDEN}@"),
    (re.compile(r"(?<![\w-])eyJ[\w-]++\.[\w-]++\.[\w-]*+"), HIDDEN),
    (re.compile(r"\b(sk|rk|pk|whsec)_[A-Za-z0-9_+/=-]{6,}"), rf"\1_{HIDDEN}"),
    (re.compile(r"\bv1a?,[A-Za-z0-9+/=]{16,}"), f"v1,{HIDDEN}"),
    (
        re.compile(
            r"(?i)((?:authorization|secret|password|passwd|token|api[-_]?key|idempotency-key)"
            r"[\"']?\s*[:=]\s*[\"']?)(?!(?:bearer|basic)\b)[^\s\"',;&}\])]+"
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(?<![\w.+-])([\w.+-])[\w.+-]*(@|%40)((?:[\w-]+\.)+[A-Za-z]{2,})"), rf"\1{HIDDEN}\2\3"),
)
# Most of what is logged: ids, numbers, times, names of modules. None of the above can match in it.
PLAIN = re.compile(r"[0-9a-f:TZ.-]*|[a-z]+(?:\.[a-z]+)*")
# What moves the cursor of a terminal, changes its colours, or begins a line where none was written.
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
BETWEEN_URLS = re.compile(r"\s*[,;]\s*(?=[a-z]+://)")
SECRET_VARIABLE = re.compile(r"SECRET|PASSWORD|TOKEN|API_KEY|URL|HEADERS")


@lru_cache(maxsize=1000)
def is_secret(name: str) -> bool:
    """Whether the value of this name is a secret."""
    return bool(SECRET_NAME.search(name))


class Redaction:
    """Removes secrets from what is logged: those of this process by value, others by their form and by their names."""

    def __init__(self, secrets: Iterable[str]) -> None:
        known = {
            form for secret in secrets for form in (secret, quote(secret, safe="")) if len(secret) >= MIN_SECRET_LENGTH
        }
        longest_first = sorted(known, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if known else None

    def __call__(self, logger: Any, method: str, event: EventDict) -> EventDict:
        return {name: value if name.startswith("_") else self.clean(value, name) for name, value in event.items()}

    def clean(self, value: Any, name: str = "") -> Any:
        """The value without secrets. The whole value is one if its name says so."""
        if is_secret(name) and value is not None:
            return HIDDEN
        if isinstance(value, str):  # nearly all of them
            return self.text(str(value))
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.clean(each, str(key)) for key, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.clean(each) for each in value]
        return value if isinstance(value, int | float | None) else self.text(str(value))

    def text(self, text: str) -> str:
        """The text without the secrets in it."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        if PLAIN.fullmatch(text):
            return text
        for pattern, instead in PATTERNS:
            text = pattern.sub(instead, text)
        return text


def secrets_of(environment: Mapping[str, str]) -> set[str]:
    """The secrets in this environment: variables whose names say so, and the passwords in URLs."""
    found: set[str] = set()
    for name, value in environment.items():
        if not SECRET_VARIABLE.search(name):
            continue
        if "://" in value:
            for url in BETWEEN_URLS.split(value):
                password = _password_of(url)
                found |= {password, unquote(password)}
        else:
            found |= {word.strip().partition("=")[2] or word.strip() for word in value.split(",")}
    return {secret for secret in found if len(secret) >= MIN_SECRET_LENGTH}


def _password_of(url: str) -> str:
    try:
        return urlsplit(url).password or ""
    except ValueError:
        return url  # which is none: whoever reads the settings says so


def add_context(logger: Any, method: str, event: EventDict) -> EventDict:
    """Add the request or the message that is being handled."""
    here = context.peek()
    if here is not None:
        event.setdefault("correlation_id", here.correlation_id)
        for name, value in (("order_id", here.subject), ("message_id", here.causation_id)):
            if value:
                event.setdefault(name, value)
        if here.traceparent:
            event.setdefault("trace_id", here.traceparent.split("-")[1])
    return event


def visible(text: str) -> str:
    """The text with its control characters as escape sequences, so that it stays in its line."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable(logger: Any, method: str, event: EventDict) -> EventDict:
    """Keep every value in its line; a traceback has several, which are indented, unlike the beginning of an entry."""
    return {
        visible(name): (
            "\n".join(f"  {visible(line)}" for line in value.split("\n"))
            if name in ("exception", "stack")
            else visible(value)
        )
        if isinstance(value, str)
        else value
        for name, value in event.items()
    }


def as_json(logger: Any, method: str, event: EventDict) -> str:
    """The line as JSON, with escape sequences for the control characters that JSON allows in a string."""
    line = str(structlog.processors.JSONRenderer(ensure_ascii=False, default=str)(logger, method, event))
    return CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def configuration(*, level: str, form: str) -> dict[str, Any]:
    """
    The logging configuration of a process.

    :param form: `json`, `console`, or `auto`: readable on a terminal, else JSON
    """
    if form == "auto":
        form = "console" if sys.stderr.isatty() else "json"
    renderers: list[Processor] = [as_json]
    if form == "console":
        colors = "NO_COLOR" not in os.environ and (sys.stderr.isatty() or "FORCE_COLOR" in os.environ)
        console = structlog.dev.ConsoleRenderer(colors=colors, event_key="message", sort_keys=False)
        renderers = [printable, console]
    before: list[Processor] = [
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        add_context,
        structlog.stdlib.ExtraAdder(),
    ]
    after: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("message"),
        Redaction(secrets_of(os.environ)),
        *renderers,
    ]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "lines": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": before,
                "processors": after,
            }
        },
        "handlers": {"lines": {"class": "logging.StreamHandler", "formatter": "lines"}},
        "root": {"handlers": ["lines"], "level": level},
        "loggers": {
            # Three lines for each task; outbox/consumers.py logs what was handled once.
            "celery.beat": {"level": "WARNING"},
            "celery.worker.strategy": {"level": "WARNING"},
            "celery.app.trace": {"level": "WARNING"},
            "amqp": {"level": "WARNING"},
            "urllib3": {"level": "WARNING"},
            # The middleware logs each request once, whatever became of it.
            "django.request": {"level": "ERROR"},
            "django.security.DisallowedHost": {"level": "CRITICAL"},
            # Their own handlers would print each line a second time, in another form.
            **{name: {"handlers": [], "propagate": True} for name in ("django", "django.server", "gunicorn.error")},
        },
    }


def take_over() -> None:
    """Log warnings and uncaught exceptions like everything else."""
    logging.captureWarnings(True)
    logger = logging.getLogger("orders_project")
    sys.excepthook = lambda kind, error, trace: logger.critical("Uncaught: %s", error, exc_info=(kind, error, trace))
    threading.excepthook = lambda args: logger.critical(
        "Uncaught in %s: %s", args.thread and args.thread.name, args.exc_value, exc_info=args.exc_value
    )
