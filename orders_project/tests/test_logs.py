"""What a log line contains, and what it never contains."""

import io
import json
import logging
import logging.config
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from orders_project.observability import logs
from outbox import context

HERE = context.Context(
    correlation_id="c-1",
    causation_id="m-1",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    subject="o-1",
)


@contextmanager
def written(form: str) -> Iterator[io.StringIO]:
    """What the logger below writes in this form."""
    stream = io.StringIO()
    formatter = logs.configuration(level="INFO", form=form)["formatters"]["lines"]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=formatter["foreign_pre_chain"], processors=formatter["processors"]
        )
    )
    logger.addHandler(handler)
    logger.setLevel("INFO")
    logger.propagate = False
    yield stream
    logger.removeHandler(handler)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The lines of the logger, in an environment with secrets."""
    monkeypatch.setenv("ADMIN_SECRET", "correct-horse,battery/staple")
    monkeypatch.setenv("DATABASE_URL_ORDERS", "postgres://app:pa%2Fss-phrase@host/orders")
    with written("json") as stream:
        yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


logger = logging.getLogger("orders_project.tests.lines")


class TestALine:
    def test_has_its_time_level_logger_message_and_context(self, lines: Any) -> None:
        with context.acting(HERE):
            logger.warning("paid %s", 5, extra={"seconds": 0.25})
        (line,) = lines()
        assert line.pop("timestamp").endswith("Z")
        assert line == {
            "level": "warning", "logger": "orders_project.tests.lines", "message": "paid 5", "seconds": 0.25,
            "correlation_id": "c-1", "order_id": "o-1", "message_id": "m-1",
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
        }  # fmt: skip

    def test_stays_one_line_with_a_traceback_in_it(self, lines: Any) -> None:
        try:
            raise ValueError("first\nsecond")
        except ValueError:
            logger.exception("broken\nline")
        (line,) = lines()
        assert "ValueError: first\nsecond" in line["exception"]


class TestASecret:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("the secret is correct-horse", "the secret is ***"),
            ("battery/staple and battery%2Fstaple", "*** and ***"),
            ("password pa/ss-phrase", "password ***"),
            ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
            ("{'X-Admin-Secret': 'hunter2hunter2'}", "{'X-Admin-Secret': '***'}"),
            ("amqp://app:s3cret@host/vhost", "amqp://app:***@host/vhost"),
            ("key sk_test_4eC39HqLyjWDarjtT1zdp7dc", "key sk_***"),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_***"),
            ("signed v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=", "signed v1,***"),
            ("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "***"),
            ("?access_token=abcdef&page=2", "?access_token=***&page=2"),
            ("from ann.smith@example.com", "from a***@example.com"),
            ("?user_email=ann%40example.com", "?user_email=a***%40example.com"),
            ("a monkey, 12 tokens, order o-1", "a monkey, 12 tokens, order o-1"),
        ],
    )
    def test_in_a_text_is_hidden(self, lines: Any, text: str, shown: str) -> None:
        logger.info("%s", text)
        assert lines()[0]["message"] == shown

    @pytest.mark.parametrize(
        ("url", "secrets"),
        [
            ("amqp://a:first-one@one;amqp://a:second%3Bone@two/x", {"first-one", "second%3Bone", "second;one"}),
            ("postgres://a:first-one@one/x, postgres://a:second@one@two/y", {"first-one", "second@one"}),
            ("postgres://a:first,one@one,two/x", {"first,one"}),
            ("postgres://a:first-one@[x", {"postgres://a:first-one@[x"}),
        ],
    )
    def test_in_each_of_several_addresses_is_known(self, url: str, secrets: set[str]) -> None:
        assert logs.secrets_of({"SOME_URL": url}) == secrets

    @given(text=st.from_regex(logs.PLAIN, fullmatch=True))
    def test_is_in_no_text_that_is_not_looked_through(self, text: str) -> None:
        assert [pattern.pattern for pattern, _ in logs.PATTERNS if pattern.search(text)] == []

    def test_that_is_known_is_hidden_in_every_text(self) -> None:
        assert logs.Redaction(["deadbeefdeadbeef"]).text("deadbeefdeadbeef") == logs.HIDDEN

    def test_in_a_field_or_an_error_is_hidden(self, lines: Any) -> None:
        try:
            raise ValueError("refused correct-horse")
        except ValueError:
            logger.exception(
                "x",
                extra={"headers": {"Authorization": "abc", "Accept": "text/html"}, "api_key": "123", "n": [1, None]},
            )
        (line,) = lines()
        assert line["headers"] == {"Authorization": "***", "Accept": "text/html"}
        assert (line["api_key"], line["n"]) == ("***", [1, None])
        assert "correct-horse" not in line["exception"]

    @pytest.mark.parametrize(
        "piece",
        [
            "eyJ-",
            "eyJa.",
            "eyJ.-",
            "bearer ",
            "basic\t",
            "://a:",
            "://a:b",
            "a@1.",
            "a.",
            "%40a.",
            "token = ",
            "v1,a",
            "sk_",
        ],
    )
    def test_is_looked_for_in_a_time_that_grows_with_the_text(self, piece: str) -> None:
        redaction = logs.Redaction([])
        text = piece * (64 * 1024 // len(piece))
        began = time.process_time()
        redaction.text(text)
        redaction.text(text + "!")
        assert time.process_time() - began < 2


FORGED = "\n2026-01-01T00:00:00Z [critical ] money is gone \x1b[31m\x1b[2J\x9b1A\u202ereversed\u2028\x07"


class TestAForgedLine:
    @pytest.mark.parametrize("form", ["console", "json"])
    def test_stays_inside_its_own(self, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        with written(form) as stream:
            logger.info("GET /x%s 404", FORGED, extra={"user": FORGED, "headers": {"X": FORGED}})
        (line,) = stream.getvalue().splitlines()
        assert line.isprintable()
        assert "money is gone" in line

    @pytest.mark.parametrize("form", ["console", "json"])
    def test_in_an_error_does_not_look_like_one(self, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        with written(form) as stream:
            try:
                raise ValueError(FORGED)
            except ValueError:
                logger.exception("failed")
        first, *rest = stream.getvalue().splitlines()
        assert "failed" in first
        assert all(line.startswith("  ") for line in rest if line)
        assert all(line.isprintable() for line in (first, *rest))

    def test_can_be_asked_for_over_http(self, client: Any) -> None:
        with written("console") as stream:
            logging.getLogger("orders_project.http.middleware").addHandler(logger.handlers[0])
            try:
                client.get("/no%0Asuch%1B%5B31mpage")
            finally:
                logging.getLogger("orders_project.http.middleware").removeHandler(logger.handlers[0])
        assert [line for line in stream.getvalue().splitlines() if "such" in line] == stream.getvalue().splitlines()
        assert "\x1b[31mpage" not in stream.getvalue()


@pytest.mark.parametrize(
    ("path", "host", "logged"),
    [
        ("/orders/nope/nope", "testserver", ["GET /orders/nope/nope 404"]),
        ("/static/nope.css", "testserver", ["GET /static/nope.css 404"]),
        ("/static/backoffice/backoffice.css", "testserver", []),
        ("/problems", "elsewhere.example", ["GET /problems 400"]),
    ],
)
def test_a_request_is_one_line_and_a_file_of_a_page_is_none(
    path: str, host: str, logged: list[str], client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client.get(path, headers={"host": host})
    assert [record.getMessage() for record in caplog.records] == logged
