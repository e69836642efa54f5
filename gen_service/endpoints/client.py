"""One request to one server over HTTP, and the one place where foreign errors become ours."""

from __future__ import annotations

import asyncio
import email.utils
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
    Stalled,
    StreamBroken,
    Unreachable,
)
from gen_service.records import Sample
from gen_service.settings import EndpointSettings, SamplingSettings

REFUSED = frozenset({400, 404, 413, 422})
OVERLOADED = frozenset({429, 503})
# What vLLM reports for answers it gave up on: they did not end by themselves.
ABORTED = frozenset({"abort", "error"})
WORDS_BYTES = 4096
PROBE_S = 10.0


class Client:
    """Sends requests and reads streams; knows nothing of health, limits or retries.

    Use as an async context manager: it owns one connection pool for all servers.
    """

    def __init__(self, settings: EndpointSettings, sampling: SamplingSettings) -> None:
        self._settings = settings
        self._parameters = sampling_parameters(sampling)
        self._max_tokens = sampling.max_tokens
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        key = self._settings.api_key
        self._session = aiohttp.ClientSession(
            # The fleet bounds what is in flight; a second bound here would hide waiting from it.
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_s),
            headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else None,
            read_bufsize=2**18,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def models(self, url: str) -> list[str]:
        """Names of the models a server offers, after its /health said it is well.

        Raises:
            EndpointError: it is not reachable, not well, or does not say.
        """
        try:
            async with asyncio.timeout(PROBE_S), translated(url):
                async with self._opened.get(f"{url}/health") as response:
                    await raise_for_status(url, response)
                async with self._opened.get(f"{url}/v1/models") as response:
                    await raise_for_status(url, response)
                    listing = orjson.loads(await response.read())
            return [str(model["id"]) for model in listing["data"]]
        except TimeoutError as error:
            raise Stalled(url, f"no answer to a probe within {PROBE_S:g} s") from error
        except (KeyError, TypeError) as error:
            raise MalformedAnswer(url, "/v1/models does not list models") from error

    async def stream(self, url: str, model: str, sample: Sample, draft: Draft, budget: int) -> None:
        """Fill `draft` with the server's answer, from its beginning or from the tokens it already has.

        Args:
            budget: completion tokens in all, those already in the draft among them.

        Raises:
            EndpointError: the answer did not end. What came before stays in the draft.
        """
        path, body = self._request(model, sample, draft, budget)
        headers = {"Content-Type": "application/json", "X-Request-Id": sample.sample_id}
        try:
            async with asyncio.timeout(self._first_limit()) as deadline, translated(url):
                async with self._opened.post(url + path, data=body, headers=headers) as response:
                    if response.status != 200:
                        await raise_for_status(url, response)
                    await self._read(url, response, draft, deadline)
        except TimeoutError as error:
            raise Stalled(url, self._limits()) from error
        if draft.finish_reason is None or draft.finish_reason in ABORTED:
            reason, draft.finish_reason = draft.finish_reason, None
            raise StreamBroken(url, f"the answer ended with finish_reason {reason!r}")

    async def _read(
        self, url: str, response: aiohttp.ClientResponse, draft: Draft, deadline: asyncio.Timeout
    ) -> None:
        if response.content_type == "application/json":
            take_event(url, await response.read(), draft)
            return
        loop, stall = asyncio.get_running_loop(), self._settings.stall_s
        wall_at = math.inf if self._settings.wall_s is None else loop.time() + self._settings.wall_s
        rest = b""
        async for piece in response.content.iter_any():
            *lines, rest = (rest + piece if rest else piece).split(b"\n")
            progressed = False
            for line in lines:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                progressed |= take_event(url, data, draft)
            if progressed:
                now = loop.time()
                if draft.first_token_at is None:
                    draft.first_token_at = now
                deadline.reschedule(min(now + stall, wall_at))

    def _first_limit(self) -> float:
        settings = self._settings
        return settings.first_token_s if settings.wall_s is None else min(settings.first_token_s, settings.wall_s)

    def _limits(self) -> str:
        settings = self._settings
        wall = "" if settings.wall_s is None else f", or no whole answer within wall_s={settings.wall_s:g} s"
        return (
            f"no first token within first_token_s={settings.first_token_s:g} s, "
            f"or no further one within stall_s={settings.stall_s:g} s{wall}"
        )

    def _request(self, model: str, sample: Sample, draft: Draft, budget: int) -> tuple[str, bytes]:
        body: dict[str, Any] = {
            "model": model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            **self._parameters,
        }
        if sample.seed is not None:
            body["seed"] = sample.seed
        if draft.can_continue:
            body["prompt"] = [*draft.prompt_ids, *draft.token_ids]
            body["max_tokens"] = budget - len(draft.token_ids)
            return "/v1/completions", orjson.dumps(body)
        body["messages"] = sample.prompt.messages
        body["max_tokens"] = budget
        return "/v1/chat/completions", orjson.dumps(body)

    @property
    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("Client is an async context manager: use `async with Client(...)`")
        return self._session


def sampling_parameters(sampling: SamplingSettings) -> dict[str, Any]:
    """The part of the request body that is the same for every sample, without `max_tokens`."""
    body: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if sampling.top_k is not None:
        body["top_k"] = sampling.top_k
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    return body | sampling.extra


def take_event(url: str, data: bytes, draft: Draft) -> bool:
    """Add one stream event (or a whole body) to the draft. True if it carried tokens or text.

    Raises:
        MalformedAnswer: it is not JSON of the expected shape.
        ServerFailed, RequestRefused: the server reports an error inside the stream.
    """
    try:
        event = orjson.loads(data)
        if "error" in event:
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
    except (orjson.JSONDecodeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise MalformedAnswer(url, f"{error}: {data[:200]!r}") from error


def _take_choice(event: dict[str, Any], choice: dict[str, Any], draft: Draft) -> bool:
    if not draft.model:
        draft.model = str(event.get("model", ""))
    prompt_ids = event.get("prompt_token_ids") or choice.get("prompt_token_ids")
    if prompt_ids and not draft.prompt_ids:
        draft.prompt_ids = prompt_ids
        draft.prompt_tokens = len(prompt_ids)
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
    """Seconds to wait by a Retry-After header: a number or an HTTP date (RFC 9110 10.2.3)."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


@asynccontextmanager
async def translated(url: str) -> AsyncIterator[None]:
    """Errors of aiohttp and the socket become EndpointError."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise Unreachable(url, str(error)) from error
    except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        raise StreamBroken(url, str(error) or type(error).__name__) from error
    except aiohttp.InvalidURL as error:
        raise Unreachable(url, f"not a URL: {error}") from error
    except orjson.JSONDecodeError as error:
        raise MalformedAnswer(url, str(error)) from error
    except (aiohttp.ClientError, ConnectionError, ValueError) as error:
        raise StreamBroken(url, f"{type(error).__name__}: {error}") from error
