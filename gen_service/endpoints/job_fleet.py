"""The fleet as one job sees it: `complete` turns a sample into a completion, whatever single servers do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential

from gen_service.endpoints.attempts import Attempts
from gen_service.endpoints.endpoint import Endpoint
from gen_service.endpoints.places import Places
from gen_service.endpoints.question import Questions
from gen_service.endpoints.servers import Notice, Requests, Servers, now
from gen_service.endpoints.shares import Share
from gen_service.errors import EndpointError, RequestRefused, ServerFailed
from gen_service.records import Completion, Sample
from gen_service.settings import EndpointSettings, SamplingSettings

LONGEST_BACKOFF_S = 30.0
NOT_FOUND = 404


class JobFleet:
    """One job's requests to the servers that all jobs share.

    Invariants: every `complete` returns a completion or raises EndpointError; while no healthy server offers the
    job's model it waits, says so once, and goes on by itself.

    Args:
        share: what the job may have of the fleet.
        model: what it asks for; None for the first that any server offers.
        on_notice: told in words when the job has to wait for a server.
        on_leave: called once, by `leave`.

    Attributes:
        model: None until it is known.
        on_bound: called each time a request of the job gets a place; set by whoever feeds the job.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        client: Requests,
        servers: Servers,
        places: Places,
        share: Share,
        sampling: SamplingSettings,
        model: str | None,
        on_notice: Notice,
        on_leave: Callable[[JobFleet], None],
    ) -> None:
        self.model: str | None = None
        self.share = share
        self.on_bound: Callable[[], None] = _nothing
        self.places = places
        self._wish = model
        self._questions = Questions(sampling)
        self._attempts = settings.attempts
        self._retrying = AsyncRetrying(wait=wait_random_exponential(settings.backoff_s, LONGEST_BACKOFF_S))
        self._client = client
        self._servers = servers
        self._line = places.join(share, self._bound)
        self._on_notice = on_notice
        self._on_leave = on_leave
        self._said_it_waits = False

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """All servers, those that do not offer the job's model among them."""
        return self._servers.endpoints

    @property
    def in_flight(self) -> int:
        """The job's requests at servers."""
        return self._line.in_flight

    @property
    def waiting(self) -> int:
        """The job's requests that wait for a server."""
        return len(self._line.waiters)

    def in_flight_at(self, url: str) -> int:
        """The job's requests at one server."""
        return sum(count for endpoint, count in self._line.at.items() if endpoint.url == url)

    def leave(self) -> None:
        """Give up the job's share, when each `complete` has ended."""
        self.places.leave(self._line)
        self._on_leave(self)

    async def complete(self, sample: Sample, more_tokens: int = 0) -> Completion:
        """One sample's completion.

        Args:
            sample: what to ask.
            more_tokens: when the answer is cut by its budget, go on from its tokens for up to this many more.

        Returns:
            The completion, with the cause of each failed attempt in `retries`.

        Raises:
            EndpointError: the server refused the request for good, or the attempts are used up; its `retries` holds
                the causes.
        """
        attempts = Attempts(self._questions.of(sample), self._attempts)
        try:
            endpoint = await self._send_until_done(attempts)
        except EndpointError as error:
            error.retries = tuple(attempts.retries)
            raise
        if more_tokens and attempts.draft.finish_reason == "length" and attempts.can_continue:
            endpoint = await self._send_more(attempts, more_tokens, endpoint)
        return attempts.completion(endpoint.url, now())

    def look(self) -> None:
        """The servers changed: take a model if there is none yet, and say so when none is there to be had."""
        if self.model is None:
            model = self._wish or self._servers.first_model()
            if model is not None:
                self.model = model
                self.places.name(self._line, model)
        states = {one.state for one in self.endpoints if self.model is None or self.model in one.models}
        if "healthy" in states and self.model is not None:
            self._said_it_waits = False
        elif states <= {"ejected"} and not self._said_it_waits:
            self._said_it_waits = True
            self._on_notice(self._why_it_waits())

    def _why_it_waits(self) -> str:
        if all(one.state == "ejected" for one in self.endpoints):
            reasons = "; ".join(one.reason for one in self.endpoints)
            return f"waiting: no server is healthy, the job goes on when one is ({reasons})"
        served = "; ".join(f"{one.url} {one.reason or f'serves {list(one.models)}'}" for one in self.endpoints)
        return f"waiting: no healthy server offers {self.model!r}, the job goes on when one does ({served})"

    def _bound(self) -> None:
        self.on_bound()

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
        place = await self.places.take(self._line, attempts.question.prompt_id, attempts.avoid)
        assert self.model is not None
        endpoint = place.endpoint
        attempts.sent(place.sent_at)
        budget = attempts.budget_at(endpoint.models.get(self.model))
        attempts.draft.on_first_token = partial(self._servers.answers, place)
        try:
            await self._client.stream(endpoint.url, self.model, attempts.question, attempts.draft, budget)
            endpoint.succeeded(place, now())
        except RequestRefused as error:
            if error.status != NOT_FOUND or await self._servers.still_offers(place, self.model):
                endpoint.answers(place)
                raise
            failure = ServerFailed(endpoint.url, error.words, error.status)
            attempts.failed(failure, False, endpoint)
            raise failure from error
        except EndpointError as error:
            attempts.failed(error, self._servers.failed(place, error), endpoint)
            raise
        finally:
            self.places.give_back(place)
        return endpoint


def _nothing() -> None:
    return
