"""Words about a request that are safe to send and to log: no control characters, no secrets, no endless values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gen_service.errors import InvalidRequest, RequestError

LONGEST = 1000
LONGEST_VALUE = 100
# Fields whose values are never repeated, nor what lies under them.
SECRET_FIELDS = frozenset({"webhook", "secret", "api_key", "key", "token", "password", "authorization"})
# What a job spec may say and a request may not.
SERVER_FIELDS = frozenset({"endpoints", "endpoint", "urls", "url", "api_key", "servers", "server", "pool"})
# What the framework says first of where a value was.
_WHERE = frozenset({"body", "query", "path", "header"})
# Control characters (C0, DEL, C1), line separators, marks that turn text around, lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")


def plain(text: str) -> str:
    """`text` on one line, without characters that could forge a log line or a header, and not longer than LONGEST."""
    cleaned = _UNSAFE.sub(" ", text).strip()
    return cleaned if len(cleaned) <= LONGEST else f"{cleaned[:LONGEST]}..."


def invalid_request(errors: Sequence[Mapping[str, Any]]) -> RequestError:
    """The first of pydantic's complaints in our words; the value is named where it is short and no secret."""
    first = errors[0]
    place = [str(part) for part in first["loc"]]
    if place and place[0] in _WHERE:
        del place[0]
    field = ".".join(plain(part)[:LONGEST_VALUE] for part in place)
    kind, message = first["type"], _phrase(first["msg"])
    if kind == "json_invalid":
        return RequestError(f"the body cannot be read as JSON: {first['ctx']['error']}", code="malformed_json")
    if kind == "extra_forbidden":
        return InvalidRequest(f"{field}: {_why_unknown(place)}", field=field, code="unknown_field")
    if kind == "missing":
        return InvalidRequest(f"{field or 'body'}: a value is needed", field=field or None, code="missing_field")
    got = "" if SECRET_FIELDS & set(place) else _shown(first.get("input"))
    return InvalidRequest(f"{field or 'body'}: {got}{message}", field=field or None)


def _why_unknown(place: Sequence[str]) -> str:
    if place and place[-1] in SERVER_FIELDS and len(place) == 1:
        return "servers and their keys are set by the operator of the service, not by a request; leave it out"
    return "no such field; check its spelling"


def _phrase(message: str) -> str:
    message = message.removeprefix("Value error, ").removeprefix("Input should be ")
    return f"expected {message[:1].lower()}{message[1:]}" if message else "another value is needed"


def _shown(value: object) -> str:
    if value is not None and not isinstance(value, str | int | float | bool):
        return ""
    text = repr(value)
    return f"got {text[:LONGEST_VALUE]}{'...' if len(text) > LONGEST_VALUE else ''}; "
