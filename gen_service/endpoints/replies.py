"""What servers and the network say, in our words: the one place where foreign errors become ours."""

from __future__ import annotations

import email.utils
import math
import time
from datetime import UTC
from typing import Any

import aiohttp
import orjson

from gen_service.endpoints.draft import Draft
from gen_service.errors import (
    EndpointError,
    MalformedAnswer,
    Overloaded,
    RequestRefused,
    ServerFailed,
    StreamBroken,
    Unreachable,
)

REFUSED = frozenset({400, 404, 413, 422})
OVERLOADED = frozenset({429, 503})
WORDS_BYTES = 4096


def take_event(url: str, data: bytes, draft: Draft) -> bool:
    """Add one stream event (or a whole body) to the draft. True if it carried tokens or text.

    Raises:
        MalformedAnswer: it is not JSON of the expected shape.
        ServerFailed, RequestRefused: the server reports an error inside the stream.
    """
    try:
        event = orjson.loads(data)
        if event.get("error"):
            raise stream_error(url, event["error"])
        choices, usage = event.get("choices") or (), event.get("usage")
        if usage:
            draft.take_usage(usage)
        elif not choices:
            raise MalformedAnswer(url, f"an event without choices: {data[:200]!r}")
        progressed = False
        for choice in choices:
            progressed |= _take_choice(event, choice, draft)
        return progressed
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise MalformedAnswer(url, f"{error}: {data[:200]!r}") from error


def _take_choice(event: dict[str, Any], choice: dict[str, Any], draft: Draft) -> bool:
    if not draft.model:
        draft.model = str(event.get("model", ""))
    if not draft.prompt_ids and (prompt_ids := event.get("prompt_token_ids") or choice.get("prompt_token_ids")):
        draft.take_prompt_ids(prompt_ids)
    if "text" in choice:
        return draft.take_text_choice(choice)
    return draft.take_chat_choice(choice)


def stream_error(url: str, error: Any) -> EndpointError:
    """The error a server reports inside a stream that began with 200."""
    words = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and code in REFUSED:
        return RequestRefused(url, words, code)
    return ServerFailed(url, words, code if isinstance(code, int) else None)


async def raise_for_status(url: str, response: aiohttp.ClientResponse) -> None:
    """Turn an HTTP error into ours, with the server's own words. Does nothing below 400."""
    status = response.status
    if status < 400:
        return
    words = error_words(await response.content.read(WORDS_BYTES)) or (response.reason or "")
    if status in REFUSED:
        raise RequestRefused(url, words, status)
    if status in OVERLOADED:
        raise Overloaded(url, words, status, retry_after(response.headers.get("Retry-After")))
    raise ServerFailed(url, words, status)


def error_words(body: bytes) -> str:
    """The message in an error body: OpenAI's `error.message`, FastAPI's `detail`, or the text itself."""
    try:
        document = orjson.loads(body)
        error = document.get("error", document.get("detail", document.get("message", document)))
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except (orjson.JSONDecodeError, AttributeError):
        return body.decode("utf-8", "replace").strip()


def retry_after(header: str | None) -> float | None:
    """Seconds to wait by a Retry-After header: a number or an HTTP date (RFC 9110 10.2.3); None if it is neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(header)
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def translated(url: str, error: Exception) -> EndpointError:
    """An error of aiohttp, the socket or the parsers as ours."""
    match error:
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return Unreachable(url, str(error) or type(error).__name__)
        case aiohttp.InvalidURL():
            return Unreachable(url, f"not a URL: {error}")
        case orjson.JSONDecodeError():
            return MalformedAnswer(url, str(error))
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return StreamBroken(url, str(error) or type(error).__name__)
        case _:
            return StreamBroken(url, f"{type(error).__name__}: {error}")
