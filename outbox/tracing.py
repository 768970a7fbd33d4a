"""
Traces from a request to the last effect of its messages, over every process. Off unless a process calls `begin`.

A span's parent is the `traceparent` in force (see context.py), which every message carries from the transaction that
posted it; so a trace continues where a message is handled, however much later.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from . import conf, context

Kind = Literal["server", "client", "producer", "consumer"]

_tracer: Any = None  # OpenTelemetry's, while tracing is on; it is not even imported while it is off
_provider: Any = None


def wanted() -> bool:
    """Whether the environment says where traces go."""
    return any(os.environ.get(f"OTEL_EXPORTER_OTLP_{name}ENDPOINT") for name in ("", "TRACES_"))


def begin(service: str) -> None:
    """Trace from now on, if the environment names an endpoint. Call it after a fork: the exporter is a thread."""
    global _tracer, _provider
    if not wanted():
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME") or service
    _provider = TracerProvider(resource=Resource.create({"service.name": name, "process.pid": os.getpid()}))
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = _provider.get_tracer("outbox")


def end() -> None:
    """Send what is not sent yet: the last spans of a process that ends without this are lost."""
    global _tracer
    if _provider is not None:
        _tracer = None
        _provider.shutdown()


def accepted(traceparent: str | None, *, correlation_id: str) -> str | None:
    """Return the traceparent for a request: the caller's, or one for it; None where a span is about to make it."""
    if _tracer is not None and not (traceparent and context.TRACEPARENT.fullmatch(traceparent)):
        return None
    return context.accepted_traceparent(traceparent, correlation_id=correlation_id)


class Span:
    """The span of a block, which can add to it; does nothing while tracing is off."""

    def __init__(self, recorded: Any = None) -> None:
        self._recorded = recorded

    def rename(self, name: str) -> None:
        if self._recorded is not None:
            self._recorded.update_name(name)

    def set_attributes(self, **attributes: Any) -> None:
        if self._recorded is not None:
            for name, value in attributes.items():
                self._recorded.set_attribute(name.replace("__", "."), value)


NO_SPAN = Span()


@contextmanager
def span(name: str, *, kind: Kind, links: Iterable[str | None] = (), **attributes: Any) -> Iterator[Span]:
    """
    Run a block as a span of the trace in force, or of a new one; what the block posts or calls continues the trace.

    :param links: the traceparents of what a batch carries
    :param attributes: `messaging__destination` stands for `messaging.destination`
    """
    if _tracer is None:
        yield NO_SPAN
        return
    from opentelemetry import trace

    here = context.current()
    recorded = _tracer.start_span(
        name,
        context=_parent(here.traceparent),
        kind=trace.SpanKind[kind.upper()],
        links=[trace.Link(found) for found in map(_span_context, set(links)) if found],
    )
    made = recorded.get_span_context()
    traceparent = f"00-{made.trace_id:032x}-{made.span_id:016x}-{made.trace_flags:02x}"
    this = Span(recorded)
    this.set_attributes(correlation_id=here.correlation_id, **attributes)
    if here.subject:
        this.set_attributes(**{conf.OUTBOX_SUBJECT_FIELD or "subject": here.subject})
    with trace.use_span(recorded, end_on_exit=True), context.acting(dataclasses.replace(here, traceparent=traceparent)):
        yield this


def _parent(traceparent: str | None) -> Any:
    from opentelemetry import trace
    from opentelemetry.context import Context

    found = _span_context(traceparent)
    return trace.set_span_in_context(trace.NonRecordingSpan(found), Context()) if found else Context()


def _span_context(traceparent: str | None) -> Any:
    from opentelemetry import trace

    if not traceparent or not context.TRACEPARENT.fullmatch(traceparent):
        return None
    _, trace_id, span_id, flags = traceparent.split("-")
    sampled = trace.TraceFlags(int(flags, 16))
    return trace.SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=sampled)
