"""Tracing while it is off, and what is believed of a caller's headers."""

import sys

import pytest

from outbox import context, tracing

OFFERED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HERE = context.Context(correlation_id="c", traceparent=OFFERED)


class TestWhileItIsOff:
    def test_a_span_changes_nothing_and_the_traceparent_is_handed_on(self) -> None:
        with context.acting(HERE), tracing.span("work", kind="server", some__thing=1) as span:
            span.rename("other")
            span.set_attributes(status=200)
            assert context.current() is HERE

    def test_an_error_passes_through(self) -> None:
        with pytest.raises(ZeroDivisionError), tracing.span("work", kind="server"):
            raise ZeroDivisionError

    def test_begin_does_nothing_and_loads_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
        tracing.begin("web")
        tracing.end()
        assert "opentelemetry.exporter.otlp.proto.http.trace_exporter" not in sys.modules


class TestATraceparent:
    def test_that_is_well_formed_is_kept(self) -> None:
        assert tracing.accepted(OFFERED, correlation_id="c") == OFFERED

    @pytest.mark.parametrize("offered", [None, "", "x", OFFERED + "-more", OFFERED.replace("00-4b", "ff-4b")])
    def test_that_is_not_is_replaced_by_one_that_nobody_samples(self, offered: str | None) -> None:
        made = tracing.accepted(offered, correlation_id="c")
        assert made is not None
        assert made != offered
        assert context.TRACEPARENT.fullmatch(made)
        assert made.endswith("-00")
        assert made == tracing.accepted(None, correlation_id="c") != tracing.accepted(None, correlation_id="d")


def test_headers_name_whom_a_call_is_for() -> None:
    assert context.headers() == {}
    with context.acting(HERE):
        assert context.headers() == {"X-Correlation-ID": "c", "traceparent": OFFERED}
