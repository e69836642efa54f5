"""One request to one server over HTTP."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from gen_service.endpoints.draft import Draft
from gen_service.endpoints.question import Question
from gen_service.endpoints.readings import Readings, readings_of
from gen_service.endpoints.replies import raise_for_status, take_event, translated
from gen_service.errors import EndpointError, MalformedAnswer, Stalled, StreamBroken
from gen_service.settings import EndpointSettings

FOREIGN = (aiohttp.ClientError, ConnectionError, ValueError)
DONE = b"[DONE]"
EVENT_BYTES = 64 * 1024 * 1024
# A page of metrics of 32 engines has one or two of these.
PAGE_BYTES = 8 * 1024 * 1024
PROBE_S = 10.0
# How long the end of a body may take after `[DONE]`.
END_S = 1.0
# Shorter than the 5 s after which vLLM's HTTP server closes an idle connection, lest a request meets the closing.
KEEP_ALIVE_S = 4.0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that a server offers. `max_model_len` is its longest context in tokens, None where it is not said."""

    id: str
    max_model_len: int | None


class Client:
    """Sends requests and reads streams; knows nothing of health, limits or retries.

    Use as an async context manager: it owns one connection pool for all servers.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        key = self._settings.api_key
        self._session = aiohttp.ClientSession(
            # The fleet bounds what is in flight; a second bound here would hide waiting from it.
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_s),
            headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else None,
            read_bufsize=2**18,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def models(self, url: str) -> list[ServedModel]:
        """The models a server offers, after its /health said it is well.

        Raises:
            EndpointError: it is not reachable, not well, or does not say.
        """
        try:
            async with asyncio.timeout(PROBE_S):
                async with self._opened.get(f"{url}/health") as response:
                    await raise_for_status(url, response)
                async with self._opened.get(f"{url}/v1/models") as response:
                    await raise_for_status(url, response)
                    listing = orjson.loads(await response.read())
            return [served_model(model) for model in listing["data"]]
        except TimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise translated(url, error) from error
            raise Stalled(url, f"no answer to a probe within {PROBE_S:g} s") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise MalformedAnswer(url, "/v1/models does not list models") from error
        except FOREIGN as error:
            raise translated(url, error) from error

    async def readings(self, url: str) -> Readings:
        """What a server's /metrics say.

        Raises:
            EndpointError: it is not reachable, has no such page, or one that cannot be read.
        """
        try:
            async with asyncio.timeout(PROBE_S), self._opened.get(f"{url}/metrics") as response:
                await raise_for_status(url, response)
                page = await read_at_most(url, response, PAGE_BYTES)
        except TimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise translated(url, error) from error
            raise Stalled(url, f"no metrics within {PROBE_S:g} s") from error
        except FOREIGN as error:
            raise translated(url, error) from error
        try:
            return readings_of(page)
        except ValueError as error:
            raise MalformedAnswer(url, f"/metrics: {error}") from error

    async def stream(self, url: str, model: str, question: Question, draft: Draft, budget: int | None) -> None:
        """Fill `draft` with the server's answer, from its beginning or from the tokens it already has.

        An answer whose finish reason has come is whole, whatever happens to the connection after that.

        Args:
            budget: completion tokens in all, those already in the draft among them; None for the server's default.

        Raises:
            EndpointError: the answer did not end. What came before stays in the draft.
        """
        path, body = question.request(model, draft, budget)
        headers = {"Content-Type": "application/json", "X-Request-Id": question.request_id}
        try:
            await self._exchange(url, path, body, headers, draft)
        except EndpointError:
            draft.end_if_full(budget)
            if not draft.is_whole:
                raise
        draft.end_if_full(budget)
        if not draft.is_whole:
            reason, draft.finish_reason = draft.finish_reason, None
            raise StreamBroken(url, f"the answer ended with finish_reason {reason!r}")

    async def _exchange(self, url: str, path: str, body: bytes, headers: dict[str, str], draft: Draft) -> None:
        """Send a request and read its answer, all errors translated."""
        wall_s = math.inf if self._settings.wall_s is None else self._settings.wall_s
        wall_at = asyncio.get_running_loop().time() + wall_s
        try:
            async with (
                asyncio.timeout(min(self._settings.first_token_s, wall_s)) as deadline,
                self._opened.post(url + path, data=body, headers=headers) as response,
            ):
                if response.status != 200:
                    await raise_for_status(url, response)
                await self._read(url, response, draft, deadline, wall_at)
        except TimeoutError as error:
            raise self._timed_out(url, error, wall_at) from error
        except FOREIGN as error:
            raise translated(url, error) from error

    async def _read(
        self, url: str, response: aiohttp.ClientResponse, draft: Draft, deadline: asyncio.Timeout, wall_at: float
    ) -> None:
        if response.headers.get("Content-Type", "").startswith("application/json"):
            take_event(url, await read_at_most(url, response), draft)
            return
        loop, stall_s, slack_s = asyncio.get_running_loop(), self._settings.stall_s, self._settings.stall_s / 10
        rest, done = b"", False
        async for piece in response.content.iter_any():
            *lines, rest = (rest + piece if rest else piece).split(b"\n")
            progressed = False
            for line in lines:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == DONE:
                    # Read on to the end of the body, or aiohttp closes the connection instead of keeping it.
                    done = True
                    if not response.content.is_eof():
                        deadline.reschedule(loop.time() + END_S)
                elif not done:
                    progressed |= take_event(url, data, draft)
            if len(rest) > EVENT_BYTES:
                raise MalformedAnswer(url, f"an event of more than {EVENT_BYTES} bytes")
            if progressed:
                now = loop.time()
                draft.came(now)
                # A timer for every piece would cost as much as reading it: a stall may be noticed a tenth late.
                until = min(now + stall_s + slack_s, wall_at)
                if not done and abs(until - (deadline.when() or 0.0)) > slack_s:
                    deadline.reschedule(until)

    def _timed_out(self, url: str, error: TimeoutError, wall_at: float) -> EndpointError:
        settings = self._settings
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return translated(url, error)
        if asyncio.get_running_loop().time() >= wall_at:
            return StreamBroken(url, f"no whole answer within wall_s={settings.wall_s:g} s")
        return Stalled(
            url,
            f"no first token within first_token_s={settings.first_token_s:g} s, "
            f"or no further one within stall_s={settings.stall_s:g} s",
        )

    @property
    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("Client is an async context manager: use `async with Client(...)`")
        return self._session


def served_model(card: dict[str, Any]) -> ServedModel:
    """An entry of /v1/models.

    Raises:
        KeyError, TypeError, AttributeError: it is none.
    """
    length = card.get("max_model_len")
    return ServedModel(str(card["id"]), length if isinstance(length, int) and length > 0 else None)


async def read_at_most(url: str, response: aiohttp.ClientResponse, most: int = EVENT_BYTES) -> bytes:
    """A whole body of bounded size.

    Raises:
        MalformedAnswer: it is larger than `most` bytes.
    """
    pieces, length = [], 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        length += len(piece)
        if length > most:
            raise MalformedAnswer(url, f"a body of more than {most} bytes")
    return b"".join(pieces)
