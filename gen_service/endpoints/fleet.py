"""Any number of vLLM servers as one: `complete` turns a sample into a completion, whatever single servers do."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from gen_service.endpoints.client import Client
from gen_service.endpoints.draft import Draft
from gen_service.endpoints.endpoint import Endpoint
from gen_service.errors import EndpointError, Overloaded, RequestRefused, SpecError
from gen_service.records import Completion, Sample
from gen_service.settings import EndpointSettings, PoolSettings, SamplingSettings

# Prompts whose server is remembered, so that siblings meet their prefix cache; forgetting one costs a prefill.
REMEMBERED_PROMPTS = 4096
LONGEST_BACKOFF_S = 30.0
# Tries that are not held against a sample (outages, 429) end too, after this many times the counted ones.
UNCOUNTED_FACTOR = 10

Notice = Callable[[str], None]


class Requests(Protocol):
    """What the fleet needs of a client."""

    async def models(self, url: str) -> list[str]: ...
    async def stream(self, url: str, model: str, sample: Sample, draft: Draft, budget: int) -> None: ...


class Fleet:
    """Binds each request to the least loaded healthy server at the moment when one has room (late binding).

    Invariants: requests in flight never exceed `pool.in_flight` in all nor a server's limit; every `complete` returns
    a completion or raises EndpointError; while no server is healthy it waits, says so once, and goes on by itself.
    Siblings of a prompt prefer the server of the first, where the prefix is cached.

    Args:
        client: sends the requests.
        on_notice: told in words of ejections and returns.
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
        self.model = settings.model or ""
        self.in_flight = 0
        self.in_flight_limit = pool.in_flight
        self.retries: dict[str, int] = {}
        self._settings = settings
        self._budget = sampling.max_tokens
        self._client = client
        self._on_notice = on_notice
        self._waiting: deque[tuple[asyncio.Future[Endpoint], Endpoint | None, Endpoint | None]] = deque()
        self._homes: OrderedDict[str, Endpoint] = OrderedDict()
        self._tending: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._none_healthy = False

    async def __aenter__(self) -> Fleet:
        failures = await asyncio.gather(*(self._probe(endpoint) for endpoint in self.endpoints))
        for endpoint, failure in zip(self.endpoints, failures, strict=True):
            if failure is not None:
                self._on_notice(f"{endpoint.url} is not ready: {failure}")
                endpoint.eject(failure, self._now())
        self._tending = asyncio.create_task(self._tend())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)

    async def complete(self, sample: Sample, more_tokens: int = 0) -> Completion:
        """One sample's completion.

        Args:
            sample: what to ask.
            more_tokens: when the answer is cut by `max_tokens`, go on from its tokens for up to this many more.

        Returns:
            The completion, with the cause of each failed attempt in `retries`.

        Raises:
            EndpointError: the server refused the request for good, or the attempts are used up. Its `retries`
                attribute is not kept; see the note added to it.
        """
        work = _Work(sample, self._budget, self._settings.attempts)
        await self._send_until_done(work)
        if more_tokens and work.draft.finish_reason == "length" and work.draft.can_continue:
            await self._send_more(work, more_tokens)
        total_s = self._now() - work.began
        first = None if work.draft.first_token_at is None else work.draft.first_token_at - work.sent_at
        return work.draft.completion(work.endpoint_url, tuple(work.retries), work.started_at, (first, total_s))

    async def _send_more(self, work: _Work, more_tokens: int) -> None:
        """Go on from a truncated answer; one that cannot go on stays the truncated answer it was."""
        work.budget = len(work.draft.token_ids) + more_tokens
        work.draft.reopen()
        try:
            await self._send_until_done(work)
        except RequestRefused:
            work.draft.finish_reason = "length"

    async def _send_until_done(self, work: _Work) -> None:
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, EndpointError) and work.may_go_on(error)),
            wait=self._wait,
            sleep=asyncio.sleep,
            reraise=True,
        )
        await retrying(self._send, work)

    async def _send(self, work: _Work) -> None:
        """One attempt: wait for a server with room, send, and tell that server's state what came of it."""
        endpoint = await self._bind(work.sample.prompt.prompt_id, work.avoid)
        work.endpoint_url = endpoint.url
        work.sent_at = self._now()
        try:
            await self._client.stream(endpoint.url, self.model, work.sample, work.draft, work.budget)
            endpoint.succeeded(self._now())
        except EndpointError as error:
            self._failed(endpoint, error, work)
            raise
        finally:
            self.in_flight -= 1
            endpoint.finished()
            self._serve_waiting()

    def _failed(self, endpoint: Endpoint, error: EndpointError, work: _Work) -> None:
        if isinstance(error, RequestRefused):
            endpoint.succeeded(self._now())
            work.refused(error)
            return
        was = endpoint.state
        counts = endpoint.failed(error, self._now(), work.sent_at)
        work.failed(error, counts, endpoint)
        self.retries[error.cause] = self.retries.get(error.cause, 0) + 1
        if endpoint.state == "ejected" and was != "ejected":
            self._on_notice(f"ejected {endpoint.url}: {endpoint.reason}")
        self._changed.set()

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        backoff = wait_random_exponential(multiplier=self._settings.backoff_s, max=LONGEST_BACKOFF_S)(state)
        if isinstance(error, Overloaded) and error.retry_after_s is not None and len(self.endpoints) == 1:
            return max(backoff, error.retry_after_s)
        return backoff

    async def _bind(self, prompt_id: str, avoid: Endpoint | None) -> Endpoint:
        """Wait for a server with room and take a place on it."""
        home = self._homes.get(prompt_id)
        endpoint = None if self._waiting else self._choose(home, avoid)
        if endpoint is None:
            future: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()
            self._waiting.append((future, home, avoid))
            self._say_if_none_healthy()
            self._changed.set()
            try:
                endpoint = await future
            except asyncio.CancelledError:
                self._give_back(future)
                raise
        else:
            self._take(endpoint)
        self._homes[prompt_id] = endpoint
        self._homes.move_to_end(prompt_id)
        if len(self._homes) > REMEMBERED_PROMPTS:
            self._homes.popitem(last=False)
        return endpoint

    def _choose(self, home: Endpoint | None, avoid: Endpoint | None) -> Endpoint | None:
        if self.in_flight >= self.in_flight_limit:
            return None
        now = self._now()
        open_ = [endpoint for endpoint in self.endpoints if endpoint.has_room(now)]
        if home in open_ and home is not avoid:
            return home
        return min(open_, key=lambda endpoint: (endpoint is avoid, endpoint.load()), default=None)

    def _take(self, endpoint: Endpoint) -> None:
        self.in_flight += 1
        endpoint.sent()

    def _give_back(self, future: asyncio.Future[Endpoint]) -> None:
        """A waiter was cancelled in the moment its place was handed over."""
        if future.done() and not future.cancelled():
            self.in_flight -= 1
            future.result().finished()
            self._serve_waiting()

    def _serve_waiting(self) -> None:
        """Hand free places to those who wait, first come first served."""
        while self._waiting:
            future, home, avoid = self._waiting[0]
            if not future.done():
                endpoint = self._choose(home, avoid)
                if endpoint is None:
                    return
                self._take(endpoint)
                future.set_result(endpoint)
            self._waiting.popleft()

    def _say_if_none_healthy(self) -> None:
        none = all(endpoint.state == "ejected" for endpoint in self.endpoints)
        if none and not self._none_healthy:
            reasons = "; ".join(endpoint.reason for endpoint in self.endpoints)
            self._on_notice(f"waiting: no server is healthy, the job goes on when one is ({reasons})")
        self._none_healthy = none

    async def _tend(self) -> None:
        """Probe ejected servers when their time has come, and wake those who wait when a rest is over."""
        while True:
            self._changed.clear()
            now = self._now()
            due = [e for e in self.endpoints if e.state == "ejected" and e.probe_at <= now]
            await asyncio.gather(*(self._try_again(endpoint) for endpoint in due))
            self._serve_waiting()
            try:
                async with asyncio.timeout_at(self._next_event()):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _next_event(self) -> float | None:
        now = self._now()
        times = [e.probe_at for e in self.endpoints if e.state == "ejected"]
        times += [e.rests_until for e in self.endpoints if e.state == "healthy" and e.rests_until > now]
        return min(times, default=None)

    async def _try_again(self, endpoint: Endpoint) -> None:
        failure = await self._probe(endpoint)
        endpoint.probed(failure, self._now())
        if failure is None:
            self._none_healthy = False
            self._on_notice(f"{endpoint.url} answers again: on trial with one request")

    async def _probe(self, endpoint: Endpoint) -> str | None:
        """What is wrong with a server, or None. Learns the model's name from the first server when none was given.

        Raises:
            SpecError: the fleet's first answer shows that the model asked for is not served.
        """
        try:
            models = await self._client.models(endpoint.url)
        except EndpointError as error:
            return str(error)
        if not self.model and models:
            self.model = models[0]
        if self.model in models:
            return None
        if len(self.endpoints) == 1:
            raise SpecError("endpoints.model", self.model, f"one of {models}, which {endpoint.url} serves")
        return f"serves {models}, not {self.model!r}"

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


class _Work:
    """One sample on its way through any number of attempts."""

    __slots__ = (
        "avoid",
        "began",
        "budget",
        "counted",
        "draft",
        "endpoint_url",
        "limit",
        "retries",
        "sample",
        "sent_at",
        "started_at",
    )

    def __init__(self, sample: Sample, budget: int, limit: int) -> None:
        self.sample = sample
        self.budget = budget
        self.limit = limit
        self.draft = Draft()
        self.retries: list[str] = []
        self.counted = 0
        self.avoid: Endpoint | None = None
        self.endpoint_url = ""
        self.began = self.sent_at = asyncio.get_running_loop().time()
        self.started_at = time.time()

    def failed(self, error: EndpointError, counts: bool, endpoint: Endpoint) -> None:
        self.retries.append(error.cause)
        self.counted += counts
        self.avoid = endpoint
        if self.draft.can_continue and len(self.draft.token_ids) < self.budget:
            self.draft.reopen()
        else:
            self.draft.restart()

    def refused(self, error: RequestRefused) -> None:
        error.add_note(f"after {len(self.retries)} earlier failures")

    def may_go_on(self, error: EndpointError) -> bool:
        if isinstance(error, RequestRefused):
            return False
        return self.counted < self.limit and len(self.retries) < self.limit * UNCOUNTED_FACTOR
