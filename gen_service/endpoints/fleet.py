"""Any number of vLLM servers as one: `complete` turns a sample into a completion, whatever single servers do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

from gen_service.endpoints.attempts import Attempts
from gen_service.endpoints.draft import Draft
from gen_service.endpoints.endpoint import Endpoint
from gen_service.endpoints.places import Places
from gen_service.errors import EndpointError, RequestRefused, SpecError
from gen_service.records import Completion, Sample
from gen_service.settings import EndpointSettings, PoolSettings, SamplingSettings

LONGEST_BACKOFF_S = 30.0

Notice = Callable[[str], None]


class Requests(Protocol):
    """What the fleet needs of a client."""

    async def models(self, url: str) -> list[str]:
        """Names of the models the server offers."""
        ...

    async def stream(self, url: str, model: str, sample: Sample, draft: Draft, budget: int) -> None:
        """Fill the draft."""
        ...


class Fleet:
    """Keeps every server's state, retries what failed elsewhere, and probes the ejected.

    Invariants: every `complete` returns a completion or raises EndpointError; while no server is healthy it waits,
    says so once, and goes on by itself.

    Args:
        client: sends the requests.
        on_notice: told in words of ejections, waits and returns.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        pool: PoolSettings,
        sampling: SamplingSettings,
        client: Requests,
        on_notice: Notice,
    ) -> None:
        cap = pool.per_server or pool.in_flight
        self.endpoints = [Endpoint(url, cap, settings.eject_after, settings.probe_s) for url in settings.urls]
        self.places = Places(self.endpoints, pool.in_flight)
        self.model = settings.model or ""
        self.retries: dict[str, int] = {}
        self._attempts = settings.attempts
        self._backoff = wait_random_exponential(multiplier=settings.backoff_s, max=LONGEST_BACKOFF_S)
        self._budget = sampling.max_tokens
        self._client = client
        self._on_notice = on_notice
        self._changed = asyncio.Event()
        self._probing: dict[Endpoint, asyncio.Task[None]] = {}
        self._tending: asyncio.Task[None] | None = None
        self._said_none_healthy = False

    async def __aenter__(self) -> Fleet:
        failures = await asyncio.gather(*(self._probe(endpoint) for endpoint in self.endpoints))
        for endpoint, failure in zip(self.endpoints, failures, strict=True):
            if failure is not None:
                self._on_notice(f"{endpoint.url} is not ready: {failure}")
                endpoint.eject(failure, self._now())
        self._refuse_wrong_model(failures)
        self._tending = asyncio.create_task(self._tend())
        return self

    async def __aexit__(self, *exc: object) -> None:
        tasks = [*self._probing.values(), *([self._tending] if self._tending else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def complete(self, sample: Sample, more_tokens: int = 0) -> Completion:
        """One sample's completion.

        Args:
            sample: what to ask.
            more_tokens: when the answer is cut by `max_tokens`, go on from its tokens for up to this many more.

        Returns:
            The completion, with the cause of each failed attempt in `retries`.

        Raises:
            EndpointError: the server refused the request for good, or the attempts are used up; its `retries` holds
                the causes.
        """
        attempts = Attempts(sample, self._budget, self._attempts)
        try:
            endpoint = await self._send_until_done(attempts)
        except EndpointError as error:
            error.retries = tuple(attempts.retries)
            raise
        if more_tokens and attempts.draft.finish_reason == "length" and attempts.draft.can_continue:
            endpoint = await self._send_more(attempts, more_tokens, endpoint)
        return attempts.completion(endpoint.url)

    async def _send_more(self, attempts: Attempts, more_tokens: int, endpoint: Endpoint) -> Endpoint:
        """Go on from a truncated answer; one that cannot go on stays the truncated answer it was."""
        attempts.budget = len(attempts.draft.token_ids) + more_tokens
        attempts.draft.reopen()
        try:
            return await self._send_until_done(attempts)
        except EndpointError:
            attempts.draft.finish_reason = "length"
            return endpoint

    async def _send_until_done(self, attempts: Attempts) -> Endpoint:
        retrying = AsyncRetrying(
            retry=retry_if_exception(attempts.may_try_again), wait=self._backoff, sleep=asyncio.sleep, reraise=True
        )
        return await retrying(self._send, attempts)

    async def _send(self, attempts: Attempts) -> Endpoint:
        """One attempt: wait for a server with room, send, and tell that server's state what came of it."""
        self._say_if_none_healthy()
        endpoint = await self.places.take(attempts.sample.prompt.prompt_id, attempts.avoid)
        attempts.sent_at = self._now()
        try:
            await self._client.stream(endpoint.url, self.model, attempts.sample, attempts.draft, attempts.budget)
            endpoint.succeeded(self._now())
        except RequestRefused:
            endpoint.succeeded(self._now())
            raise
        except EndpointError as error:
            self._failed(endpoint, error, attempts)
            raise
        finally:
            self.places.give_back(endpoint)
        return endpoint

    def _failed(self, endpoint: Endpoint, error: EndpointError, attempts: Attempts) -> None:
        was = endpoint.state
        attempts.failed(error, endpoint.failed(error, self._now(), attempts.sent_at), endpoint)
        self.retries[error.cause] = self.retries.get(error.cause, 0) + 1
        if endpoint.state == "ejected" and was != "ejected":
            self._on_notice(f"ejected {endpoint.url}: {endpoint.reason}")
        self._changed.set()

    def _say_if_none_healthy(self) -> None:
        none = all(endpoint.state == "ejected" for endpoint in self.endpoints)
        if none and not self._said_none_healthy:
            reasons = "; ".join(endpoint.reason for endpoint in self.endpoints)
            self._on_notice(f"waiting: no server is healthy, the job goes on when one is ({reasons})")
        self._said_none_healthy = none

    async def _tend(self) -> None:
        """Probe ejected servers when their time has come, and wake those who wait when a server's rest is over."""
        while True:
            self._changed.clear()
            now = self._now()
            for endpoint in self.endpoints:
                if endpoint.state == "ejected" and endpoint.probe_at <= now and endpoint not in self._probing:
                    self._probing[endpoint] = asyncio.create_task(self._try_again(endpoint))
            self.places.serve()
            try:
                async with asyncio.timeout_at(self._next_event(now)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _next_event(self, now: float) -> float | None:
        times = [e.probe_at for e in self.endpoints if e.state == "ejected" and e not in self._probing]
        times += [e.rests_until for e in self.endpoints if e.state != "ejected" and e.rests_until > now]
        return min(times, default=None)

    async def _try_again(self, endpoint: Endpoint) -> None:
        try:
            failure = await self._probe(endpoint)
            endpoint.probed(failure, self._now())
            if failure is None:
                self._on_notice(f"{endpoint.url} answers again: on trial with one request")
        finally:
            del self._probing[endpoint]
            self._changed.set()

    async def _probe(self, endpoint: Endpoint) -> str | None:
        """What is wrong with a server, or None. The first that answers names the model when the spec does not."""
        try:
            models = await self._client.models(endpoint.url)
        except EndpointError as error:
            return str(error)
        if not self.model and models:
            self.model = models[0]
        return None if self.model in models else f"serves {models}, not {self.model!r}"

    def _refuse_wrong_model(self, failures: list[str | None]) -> None:
        """A model that no server has is a mistake in the spec, not an outage."""
        if all(failure is not None and failure.startswith("serves ") for failure in failures):
            raise SpecError("endpoints.model", self.model, f"a model that is served: {'; '.join(map(str, failures))}")

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
