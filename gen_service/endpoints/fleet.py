"""Any number of vLLM servers as one: `complete` turns a sample into a completion, whatever single servers do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential

from gen_service.endpoints.attempts import Attempts
from gen_service.endpoints.draft import Draft
from gen_service.endpoints.endpoint import Endpoint, Place
from gen_service.endpoints.places import Places
from gen_service.errors import EndpointError, RequestRefused, ServerFailed, SpecError
from gen_service.records import Completion, Sample
from gen_service.settings import EndpointSettings, PoolSettings, SamplingSettings

LONGEST_BACKOFF_S = 30.0
NOT_FOUND = 404
UNAUTHORISED = frozenset({401, 403})

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
        self._attempts = settings.attempts
        self._retrying = AsyncRetrying(wait=wait_random_exponential(settings.backoff_s, LONGEST_BACKOFF_S))
        self._budget = sampling.max_tokens
        self._is_exact = not sampling.stop
        self._client = client
        self._on_notice = on_notice
        self._changed = asyncio.Event()
        self._probing: dict[Endpoint, asyncio.Task[None]] = {}
        self._tending: asyncio.Task[None] | None = None
        self._said_none_healthy = False

    async def __aenter__(self) -> Fleet:
        offers = await asyncio.gather(*(self._offer(endpoint) for endpoint in self.endpoints))
        if all(isinstance(offer, EndpointError) and offer.status in UNAUTHORISED for offer in offers):
            raise SpecError("endpoints.api_key", "(hidden)", f"a key that the servers take; they say: {offers[0]}")
        lists = [offer for offer in offers if not isinstance(offer, EndpointError)]
        self._settle_model(lists)
        if len(lists) == len(offers) and not any(self.model in offer for offer in lists):
            # A model that no server has is a mistake in the spec, not an outage.
            raise SpecError("endpoints.model", self.model, f"a model that is served: {'; '.join(map(str, lists))}")
        for endpoint, offer in zip(self.endpoints, offers, strict=True):
            failure = self._fault_of(offer)
            if failure is not None:
                self._on_notice(f"{endpoint.url} is not ready: {failure}")
                endpoint.eject(failure, self._now())
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
        attempts = Attempts(sample, self._budget, self._attempts, self._is_exact)
        try:
            endpoint = await self._send_until_done(attempts)
        except EndpointError as error:
            error.retries = tuple(attempts.retries)
            raise
        if more_tokens and attempts.draft.finish_reason == "length" and attempts.can_continue:
            endpoint = await self._send_more(attempts, more_tokens, endpoint)
        return attempts.completion(endpoint.url, self._now())

    async def _send_more(self, attempts: Attempts, more_tokens: int, endpoint: Endpoint) -> Endpoint:
        """Go on from a truncated answer; one that cannot go on stays the truncated answer it was."""
        draft = attempts.draft
        attempts.budget = len(draft.token_ids) + more_tokens
        attempts.draft = draft.reopened()
        try:
            return await self._send_until_done(attempts)
        except EndpointError:
            attempts.draft = draft
            return endpoint

    async def _send_until_done(self, attempts: Attempts) -> Endpoint:
        while True:
            try:
                return await self._send(attempts)
            except EndpointError as error:
                if not attempts.may_try_again(error):
                    raise
            await asyncio.sleep(self._backoff_s(len(attempts.retries)))

    def _backoff_s(self, failures: int) -> float:
        """tenacity's wait, without its bookkeeping for every request that succeeds at once."""
        state = RetryCallState(self._retrying, None, (), {})
        state.attempt_number = failures
        return self._retrying.wait(state)

    async def _send(self, attempts: Attempts) -> Endpoint:
        """One attempt: wait for a server with room, send, and tell that server's state what came of it."""
        self._say_if_none_healthy()
        place = await self.places.take(attempts.sample.prompt.prompt_id, attempts.avoid)
        endpoint, draft = place.endpoint, attempts.draft
        attempts.sent(place.sent_at)
        draft.on_first_token = partial(self._answers, place)
        try:
            await self._client.stream(endpoint.url, self.model, attempts.sample, draft, attempts.budget)
            endpoint.succeeded(place, self._now())
        except RequestRefused as error:
            if error.status != NOT_FOUND or await self._still_serves(place):
                endpoint.answers(place)
                raise
            raise self._failed(place, ServerFailed(endpoint.url, error.words, error.status), attempts) from error
        except EndpointError as error:
            self._failed(place, error, attempts)
            raise
        finally:
            self.places.give_back(place)
        return endpoint

    def _answers(self, place: Place) -> None:
        """The first token: a server on trial has room again."""
        was_on_trial = place.endpoint.state == "trial"
        place.endpoint.answers(place)
        if was_on_trial:
            self.places.serve()

    def _failed(self, place: Place, error: EndpointError, attempts: Attempts) -> EndpointError:
        endpoint, ejections = place.endpoint, place.endpoint.ejections
        attempts.failed(error, endpoint.failed(error, place, self._now()), endpoint)
        if endpoint.ejections > ejections:
            self._on_notice(f"ejected {endpoint.url}: {endpoint.reason}")
        self._changed.set()
        return error

    async def _still_serves(self, place: Place) -> bool:
        """Whether a 404 is about the request. It is not where the server has another model by now: that is ejected."""
        endpoint = place.endpoint
        if place.era == endpoint.ejections:
            failure = self._fault_of(await self._offer(endpoint))
            if failure is None:
                return True
            if place.era == endpoint.ejections:
                endpoint.eject(failure, self._now())
                self._on_notice(f"ejected {endpoint.url}: {failure}")
        return False

    def _say_if_none_healthy(self) -> None:
        states = {endpoint.state for endpoint in self.endpoints}
        if states == {"ejected"} and not self._said_none_healthy:
            reasons = "; ".join(endpoint.reason for endpoint in self.endpoints)
            self._on_notice(f"waiting: no server is healthy, the job goes on when one is ({reasons})")
            self._said_none_healthy = True
        elif "healthy" in states:
            self._said_none_healthy = False

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
            failure = self._fault_of(await self._offer(endpoint))
            endpoint.probed(failure, self._now())
            if failure is None:
                self._on_notice(f"{endpoint.url} answers again: on trial with one request")
        finally:
            del self._probing[endpoint]
            self._changed.set()

    async def _offer(self, endpoint: Endpoint) -> list[str] | EndpointError:
        """The models that a server offers, or why it offers none."""
        try:
            return await self._client.models(endpoint.url)
        except EndpointError as error:
            return error

    def _settle_model(self, offers: Iterable[list[str]]) -> None:
        """Where the spec names no model, it is the first of the first server that has one."""
        if not self.model:
            self.model = next((offer[0] for offer in offers if offer), "")

    def _fault_of(self, offer: list[str] | EndpointError) -> str | None:
        """What is wrong with a server, or None."""
        if isinstance(offer, EndpointError):
            return str(offer)
        self._settle_model([offer])
        return None if self.model in offer else f"serves {offer}, not {self.model!r}"

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
