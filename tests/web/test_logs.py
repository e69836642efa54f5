from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import structlog
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gen_service.service_settings import LogSettings
from gen_service.web.logs import LONGEST_TEXT, SECRET_NAMES, setup_logs

Lines = Callable[[], list[str]]
SetUp = Callable[..., Lines]
# Everything that ends a line somewhere, moves a terminal's cursor, or turns the direction of writing.
NASTY = st.text() | st.text(alphabet='\n\r\x0b\x0c\x1b\x85\u2028\u2029\u202e\x00"\\ =a\ud800')


@pytest.fixture
def set_up() -> Iterator[SetUp]:
    """Sets logs up into memory; gives what reads the lines so far. Afterwards all is as it was."""
    handlers, level = logging.root.handlers, logging.root.level
    show = warnings.showwarning

    def start(level: str = "info", format: Literal["json", "text"] = "json") -> Lines:
        stream = io.StringIO()
        setup_logs(LogSettings.model_validate({"level": level, "format": format}), stream)
        # A line is what ends in \n, and not also what str.splitlines takes for one.
        return lambda: stream.getvalue().split("\n")[:-1]

    yield start
    logging.root.handlers, logging.root.level = handlers, level
    logging.captureWarnings(False)
    assert warnings.showwarning is show
    for name in ("uvicorn.access", "sqlalchemy.engine"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def objects(lines: Lines) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines()]


def test_an_event_is_one_json_line_with_time_level_logger_and_context(set_up: SetUp) -> None:
    lines = set_up()
    with structlog.contextvars.bound_contextvars(job_id="job-a", request_id="r1", tenant="t"):
        structlog.get_logger("gen_service.x").warning("sample failed", sample_id="s1", attempts=3)
    (event,) = objects(lines)
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        **{"level": "warning", "logger": "gen_service.x", "event": "sample failed", "sample_id": "s1", "attempts": 3},
        **{"job_id": "job-a", "request_id": "r1", "tenant": "t"},
    }


def test_the_libraries_logs_go_the_same_way_with_the_same_context(set_up: SetUp) -> None:
    logging.getLogger("uvicorn.error").addHandler(logging.NullHandler())
    lines = set_up()
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        logging.getLogger("uvicorn.error").info("Started on %s", "here", extra={"color_message": "\x1b[1mhere"})
        logging.getLogger("alembic.runtime").info("Running upgrade", extra={"revision": "1"})
        logging.getLogger("aiohttp.client").error("lost")
        logging.getLogger("uvicorn.access").error("said twice")
    assert logging.getLogger("uvicorn.error").handlers == []
    first, second, third = objects(lines)
    assert (first["event"], first["logger"], first["request_id"]) == ("Started on here", "uvicorn.error", "r1")
    assert "color_message" not in first
    assert (second["event"], second["revision"], second["level"]) == ("Running upgrade", "1", "info")
    assert third["level"] == "error"


def test_less_than_the_level_is_not_written(set_up: SetUp) -> None:
    lines = set_up(level="warning")
    structlog.get_logger("a").info("no")
    logging.getLogger("b").info("no")
    structlog.get_logger("a").warning("yes")
    assert [event["event"] for event in objects(lines)] == ["yes"]


@pytest.mark.parametrize("format", ["json", "text"])
def test_a_traceback_is_in_the_line_of_its_event(set_up: SetUp, format: str) -> None:
    lines = set_up(format=format)
    try:
        raise ValueError("of a model's words:\nlevel=info forged")
    except ValueError:
        structlog.get_logger("ours").exception("it failed")
        logging.getLogger("theirs").exception("it failed too")
    ours, theirs = lines()
    for line in (ours, theirs):
        assert "Traceback" in line
        assert "\\nlevel=info forged" in line


def test_warnings_of_python_are_events(set_up: SetUp) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        lines = set_up()
        warnings.warn("an old name", stacklevel=1)
        logging.captureWarnings(False)
    (event,) = objects(lines)
    assert event["logger"] == "py.warnings"
    assert "an old name" in event["event"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=NASTY, value=NASTY)
@example(words="a\nb", value='{"event": "forged"}\n{"event": "forged"}')
def test_json_gives_back_what_was_said_in_one_line(set_up: SetUp, words: str, value: str) -> None:
    lines = set_up()
    structlog.get_logger("a").info("said", value=value, nested={"value": [value]})
    logging.getLogger("b").info("%s", words, extra={"value": value})
    ours, theirs = lines()
    assert ours.isascii()
    assert theirs.isascii()
    if "gs_" not in words + value and "bearer" not in (words + value).lower() and "://" not in words + value:
        assert json.loads(ours)["value"] == value
        assert json.loads(ours)["nested"] == {"value": [value]}
        assert json.loads(theirs)["event"] == words


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=NASTY, name=NASTY, value=NASTY)
def test_text_is_one_printable_line_whatever_is_said(set_up: SetUp, words: str, name: str, value: str) -> None:
    lines = set_up(format="text")
    structlog.get_logger("a").info(words, **{f"k{name}": value}, nested={name: value}, last=1)
    logging.getLogger("b").info("%s", words, extra={"value": value})
    assert len(lines()) == 2
    for line in lines():
        assert line.isprintable()
    assert lines()[0].endswith(" last=1")


def test_text_says_it_in_words(set_up: SetUp) -> None:
    lines = set_up(format="text")
    structlog.get_logger("a.b").info("took a job", job_id="job-a", path='c:\\a "b"', parts=(1, 2), empty="")
    assert lines()[0].partition(" ")[2] == (
        'info    a.b: took a job job_id=job-a path="c:\\\\a \\"b\\"" parts="[1, 2]" empty=""'
    )


KEY = "gs_k1a2_Zm9v-YmFy_QUJD"


@pytest.mark.parametrize("format", ["json", "text"])
def test_secrets_are_never_written(set_up: SetUp, format: str) -> None:
    lines = set_up(format=format)
    log = structlog.get_logger("a")
    for name in (*SECRET_NAMES, "Authorization", "webhook_secret", "OPENAI_API_KEY"):
        log.info("named", **{name: "hunter2"})
        log.info("within", settings={"endpoints": [{name: "hunter2"}]})
        logging.getLogger("b").info("extra", extra={name: "hunter2"})
    log.info(f"refused {KEY}", header=f"Bearer hunter2, {KEY}", tuple=(KEY,), bytes=KEY.encode())
    log.info("database", url="postgresql://person:hunter2@host/name")
    try:
        raise RuntimeError(f"key {KEY}")
    except RuntimeError:
        log.exception("failed")
        logging.getLogger("b").exception("failed %s", KEY)
    written = "\n".join(lines())
    assert "hunter2" not in written
    assert "Zm9v" not in written
    assert "gs_k1a2_***" in written
    assert "postgresql://person:***@host/name" in written


def test_an_event_is_never_megabytes(set_up: SetUp) -> None:
    lines = set_up()
    structlog.get_logger("a").error("failed", words="x" * 3_000_000, value=float("nan"))
    (event,) = objects(lines)
    assert len(lines()[0]) < LONGEST_TEXT + 500
    assert event["words"].endswith("... (3000000 characters)")
    assert event["value"] == "nan"
