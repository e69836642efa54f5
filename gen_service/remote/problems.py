"""What a service and the network say, as our request errors: the one place where foreign errors become ours."""

from __future__ import annotations

import email.utils
import math
import time
from datetime import UTC
from typing import Any

import aiohttp
import orjson

from gen_service.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    RequestError,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
)

# No connection was made: what was asked surely did not arrive.
UNREACHABLE = "unreachable"
# The connection ended before the answer did: what was asked may have been done.
CONNECTION_LOST = "connection_lost"
UNEXPECTED_ANSWER = "unexpected_answer"

FOREIGN = (aiohttp.ClientError, ConnectionError, TimeoutError)
_NAMED: tuple[type[RequestError], ...] = (
    Unauthenticated,
    Forbidden,
    NotFound,
    Conflict,
    TooLarge,
    UnsupportedMedia,
    InvalidRequest,
    TooManyRequests,
    Unavailable,
)
_KINDS = {kind.status: kind for kind in _NAMED} | {400: InvalidRequest}
# What a proxy says when the service behind it gave no answer.
_GATEWAY = frozenset({502, 504})
_WORDS_BYTES = 65_536


async def raise_for_status(response: aiohttp.ClientResponse) -> None:
    """Turn an HTTP error into ours, with the service's own words, field and code. Does nothing from 200 to 299.

    Raises:
        RequestError: of the kind of the status; the bare kind for a status that has none.
    """
    if response.status >= 300:
        body = await response.content.read(_WORDS_BYTES)
        raise problem(response.status, response.headers.get("Retry-After"), body, response.reason or "")


def problem(status: int, retry_after: str | None, body: bytes, reason: str = "") -> RequestError:
    """The error that an answer stands for: problem details (RFC 9457), OpenAI's error object, or any other body.

    Args:
        retry_after: the header, or None.
        reason: HTTP's reason phrase, for a body that says nothing.
    """
    words, field, code = _said(body)
    words = words or reason or "no reason given"
    wait_s = seconds_of(retry_after)
    kind = _KINDS.get(status)
    if kind is not None:
        return kind(words, field=field, code=code, retry_after_s=wait_s)
    if status in _GATEWAY:
        return Unavailable(f"HTTP {status}: {words}", code=CONNECTION_LOST, retry_after_s=wait_s)
    return RequestError(f"HTTP {status}: {words}", field=field, code=code or f"http_{status}", retry_after_s=wait_s)


def _said(body: bytes) -> tuple[str, str | None, str | None]:
    """(message, field, code) of an error body."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:200].decode("utf-8", "replace").strip(), None, None
    if not isinstance(document, dict):
        return str(document), None, None
    error = document.get("error")
    if isinstance(error, dict):
        return str(error.get("message", "")), _word(error, "param"), _word(error, "code")
    words = document.get("detail") or document.get("title") or ""
    return str(words), _word(document, "field"), _word(document, "code")


def _word(document: dict[str, Any], name: str) -> str | None:
    value = document.get(name)
    return value if isinstance(value, str) and value else None


def seconds_of(retry_after: str | None) -> float | None:
    """Seconds to wait by a Retry-After header: a number or an HTTP date (RFC 9110 10.2.3); None if it is neither."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(retry_after)
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def translated(url: str, error: Exception) -> RequestError:
    """An error of aiohttp or the socket as ours: `code` tells whether the request can have arrived."""
    words = str(error) or type(error).__name__
    match error:
        case aiohttp.InvalidURL():
            return InvalidRequest(f"not a URL of a service: {words}", field="url")
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return Unavailable(f"no service can be reached at {url}: {words}", code=UNREACHABLE)
        case _:
            return Unavailable(f"the connection to {url} ended before the answer did: {words}", code=CONNECTION_LOST)


def unexpected(url: str, words: str) -> RequestError:
    """An answer that is none of this service: another program listens there, or a proxy speaks."""
    return RequestError(f"{url} does not answer as a gen-service does: {words}", code=UNEXPECTED_ANSWER)
