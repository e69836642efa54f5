"""Structured logs: one line of JSON or text an event, for our own events and those of the libraries alike.

No value can end a line or begin another one, whoever wrote it: JSON escapes, and the text form escapes whatever is not
printable. Secrets are masked by name and by shape before anything is written.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from gen_service.service_settings import LogSettings

MASK = "***"
# A server's words and a traceback are cut here: one event is never megabytes.
LONGEST_TEXT = 20_000
SECRET_NAMES = ("authorization", "api_key", "apikey", "secret", "password", "cookie")
_SHAPES = (
    (re.compile(r"\b(gs_[A-Za-z0-9]+)_[A-Za-z0-9_-]+"), rf"\1_{MASK}"),
    (re.compile(r"\b(bearer\s+)[^\s\"',;]+", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"(://[^/\s:@]*):[^/\s@]+@"), rf"\1:{MASK}@"),
)
# Ours says more of each request; SQLAlchemy's own would show values.
_QUIET = {"uvicorn.access": logging.CRITICAL, "sqlalchemy.engine": logging.WARNING}
_FIRST = ("timestamp", "level", "logger", "event")
# structlog's own, taken out before anything is written.
_META = ("_record", "_from_structlog")


def setup_logs(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send all events of this process, of structlog and of `logging`, to one place. Called once, at the door.

    Args:
        stream: standard error by default.
    """
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        mask_secrets,
    ]
    last = as_json if settings.format == "json" else as_text
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), _without_colours, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    logging.root.handlers = [handler]
    logging.root.setLevel(level)
    _take_over_loggers()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: values under a secret's name are masked, and what looks like a secret within any text."""
    return {name: value if name in _META else _masked(name, value) for name, value in event.items()}


def as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """A structlog renderer: one line of ASCII."""
    return json.dumps(_in_order(event), default=repr, skipkeys=True)


def as_text(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """A structlog renderer: `time level logger: event name=value ...`, quoted where a value has blanks or quotes."""
    rest = dict(event)
    time, level, logger, words = (str(rest.pop(name, "")) for name in _FIRST)
    values = "".join(f" {_one_line(str(name))}={_quoted(value)}" for name, value in rest.items())
    return _one_line(f"{time} {level:<7} {logger}: {words}") + values


def _without_colours(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """uvicorn says its words twice, the second time for a terminal."""
    event.pop("color_message", None)
    return event


def _take_over_loggers() -> None:
    """Loggers that were given handlers of their own by their library write through the root's instead."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)


def _in_order(event: MutableMapping[str, object]) -> dict[str, object]:
    return {name: event[name] for name in _FIRST if name in event} | dict(event)


def _masked(name: object, value: object) -> object:
    if any(secret in str(name).lower() for secret in SECRET_NAMES):
        return MASK
    if isinstance(value, Mapping):
        return {key: _masked(key, below) for key, below in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked("", below) for below in value]
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    # What the renderer would make text of is made text here, before it is searched.
    text = value if isinstance(value, str) else repr(value)
    for shape, masked in _SHAPES:
        text = shape.sub(masked, text)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}... ({len(text)} characters)"


def _quoted(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=repr, skipkeys=True, ensure_ascii=False)
    if text and not set(' ="\\') & set(text):
        return _one_line(text)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_one_line(escaped)}"'


def _one_line(text: str) -> str:
    """Every character that is not printable as its escape: newlines, terminal codes, turns of the writing direction."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
