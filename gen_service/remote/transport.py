"""One call to a service: sent, tried again where that is safe, its errors ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import orjson
from pydantic import BaseModel, ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_before_delay, wait_random_exponential

from gen_service.errors import RequestError, TooManyRequests, Unavailable
from gen_service.remote.problems import CONNECTION_LOST, FOREIGN, raise_for_status, translated, unexpected

CONNECT_S = 10.0
# A service that takes an upload counts its lines before it answers.
ANSWER_S = 300.0
# Shorter than the 5 s after which uvicorn closes an idle connection, lest a request meets the closing.
KEEP_ALIVE_S = 4.0

Answer = TypeVar("Answer", bound=BaseModel)
Result = TypeVar("Result")
Parameters = Mapping[str, str | int | Sequence[str] | None]
Body = Callable[[], aiohttp.FormData | aiohttp.BytesPayload]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call is tried again.

    Attributes:
        within_s: no try begins later than this after the first; a longer Retry-After is not waited for.
        first_wait_s, longest_wait_s: bounds of the random, growing waits where the service names none.
    """

    within_s: float = 60.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 10.0


class Transport:
    """One connection pool to one service. An async context manager.

    Args:
        url: base URL of the service.
        key: sent as a bearer token; None for a service that needs none.
    """

    def __init__(self, url: str, key: str | None, patience: Patience) -> None:
        self.url = url.rstrip("/")
        self.patience = patience
        self._key = key
        self._session: aiohttp.ClientSession | None = None
        self._growing = wait_random_exponential(multiplier=patience.first_wait_s, max=patience.longest_wait_s)

    async def __aenter__(self) -> Transport:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=ANSWER_S),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else None,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, answer: type[Answer], path: str, **parameters: str | int | Sequence[str] | None) -> Answer:
        """GET, decoded; tried again. Parameters that are None are left out."""
        return self.decoded(answer, await self.call("GET", path, parameters=parameters, is_repeatable=True))

    async def call(
        self,
        method: str,
        path: str,
        *,
        parameters: Parameters | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        is_repeatable: bool = False,
    ) -> bytes:
        """The body of a good answer.

        Args:
            body: makes the body, anew for each try.
            is_repeatable: whether the call may be sent again although it may have been done.

        Raises:
            RequestError: what the service said last, or that it cannot be reached.
        """

        async def once() -> bytes:
            async with self.opened(method, path, parameters=parameters, headers=headers, body=body) as response:
                return await response.read()

        return await self.persistently(once, is_repeatable=is_repeatable)

    async def persistently(self, once: Callable[[], Awaitable[Result]], *, is_repeatable: bool) -> Result:
        """The result of `once`, which is called again after what may pass: no connection, 429, 503; after a lost
        answer only where `is_repeatable`."""
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: may_pass(error, is_repeatable=is_repeatable)),
            wait=self._wait,
            stop=stop_before_delay(self.patience.within_s),
            reraise=True,
        )

        # A lambda that gives a coroutine is none to tenacity, which would not await it.
        async def tried() -> Result:
            return await once()

        return await retrying(tried)

    @asynccontextmanager
    async def opened(
        self,
        method: str,
        path: str,
        *,
        parameters: Parameters | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        silence_s: float = ANSWER_S,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One try: a good answer whose body is still to be read. Errors of reading it become ours, too.

        Args:
            silence_s: longest time without a byte.
        """
        if self._session is None:
            raise RuntimeError("ServiceClient is an async context manager: use `async with ServiceClient(...)`")
        try:
            async with self._session.request(
                method,
                self.url + path,
                params={name: value for name, value in (parameters or {}).items() if value not in (None, ())},
                headers=headers,
                data=None if body is None else body(),
                # A redirect would send the key, or the body, to a place nobody named.
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silence_s),
            ) as response:
                await raise_for_status(response)
                yield response
        except FOREIGN as error:
            raise translated(self.url, error) from error

    def decoded(self, answer: type[Answer], body: bytes | str) -> Answer:
        """A body as one of our models.

        Raises:
            RequestError: it is none.
        """
        try:
            return answer.model_validate_json(body)
        except ValidationError as error:
            raise unexpected(self.url, f"{answer.__name__} was expected, not {body[:100]!r}") from error

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, RequestError) and error.retry_after_s is not None:
            return error.retry_after_s
        return self._growing(state)


def may_pass(error: BaseException, *, is_repeatable: bool) -> bool:
    """Whether the same call may succeed later, and does no harm if it was done before."""
    if not isinstance(error, TooManyRequests | Unavailable):
        return False
    return is_repeatable or error.code != CONNECTION_LOST


def json_body(document: BaseModel) -> Body:
    """A model as a JSON body, without what was left at its default."""
    text = orjson.dumps(document.model_dump(mode="json", exclude_unset=True))
    return lambda: aiohttp.BytesPayload(text, content_type="application/json")
