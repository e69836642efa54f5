"""The health of every server and what each serves: ejects, probes, asks again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from gen_service.endpoints.client import ServedModel
from gen_service.endpoints.draft import Draft
from gen_service.endpoints.endpoint import Endpoint, Place
from gen_service.endpoints.question import Question
from gen_service.errors import EndpointError, SpecError

UNAUTHORISED = frozenset({401, 403})
# How often a server that lacks a model which a job wants is asked whether it has it by now.
ASK_AGAIN_S = 30.0

Notice = Callable[[str], None]


class Requests(Protocol):
    """What the fleet needs of a client."""

    async def models(self, url: str) -> list[ServedModel]:
        """The models the server offers."""
        ...

    async def stream(self, url: str, model: str, question: Question, draft: Draft, budget: int | None) -> None:
        """Fill the draft."""
        ...


class Servers:
    """Keeps every server's state: asks what it serves, takes it out when it fails, and probes it until it is back.

    Args:
        client: sends the requests.
        on_notice: told in words of ejections and returns.
        on_room: called when a server may have room again.
        on_change: called when a server was taken out, is back, or serves something else.
        wanted: the models that jobs ask for now.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        client: Requests,
        on_notice: Notice,
        on_room: Callable[[], None],
        on_change: Callable[[], None],
        wanted: Callable[[], set[str]],
    ) -> None:
        self.endpoints = endpoints
        self._client = client
        self._on_notice = on_notice
        self._on_room = on_room
        self._on_change = on_change
        self._wanted = wanted
        self._event = asyncio.Event()
        self._asking: dict[Endpoint, asyncio.Task[None]] = {}
        self._asked_at: dict[Endpoint, float] = {}
        self._tending: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Ask every server, take out those that are not well, and look after them from now on.

        Raises:
            SpecError: all of them refuse the key.
        """
        offers = await asyncio.gather(*(self._offer(endpoint) for endpoint in self.endpoints))
        if all(isinstance(offer, EndpointError) and offer.status in UNAUTHORISED for offer in offers):
            raise SpecError("endpoints.api_key", "(hidden)", f"a key that the servers take; they say: {offers[0]}")
        for endpoint, offer in zip(self.endpoints, offers, strict=True):
            failure = self._hear(endpoint, offer)
            if failure is not None:
                self._on_notice(f"{endpoint.url} is not ready: {failure}")
                endpoint.eject(failure, now())
        self._tending = asyncio.create_task(self._tend())

    async def close(self) -> None:
        """Leave nothing running."""
        tasks = [*self._asking.values(), *([self._tending] if self._tending else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def answers(self, place: Place) -> None:
        """The first token: a server on trial has room again."""
        was_on_trial = place.endpoint.state == "trial"
        place.endpoint.answers(place)
        if was_on_trial:
            self._on_change()

    def failed(self, place: Place, error: EndpointError) -> bool:
        """A request failed; whether that counts against its sample."""
        endpoint, ejections = place.endpoint, place.endpoint.ejections
        counts = endpoint.failed(error, place, now())
        if endpoint.ejections > ejections:
            self._ejected(endpoint)
        self._event.set()
        return counts

    async def still_offers(self, place: Place, model: str) -> bool:
        """Whether a 404 is about the request. It is not where the server serves another model by now."""
        endpoint = place.endpoint
        if place.era != endpoint.ejections or model not in endpoint.models:
            return False
        failure = self._hear(endpoint, await self._offer(endpoint))
        if failure is not None and place.era == endpoint.ejections:
            endpoint.eject(failure, now())
            self._ejected(endpoint)
        return failure is None and model in endpoint.models

    def first_model(self) -> str | None:
        """The first model of the first server that was heard to serve one."""
        return next((next(iter(one.models)) for one in self.endpoints if one.models), None)

    def look_again(self) -> None:
        """Some job wants something that it did not want before."""
        self._event.set()

    def _ejected(self, endpoint: Endpoint) -> None:
        self._on_notice(f"ejected {endpoint.url}: {endpoint.reason}")
        self._on_change()

    async def _tend(self) -> None:
        """Ask servers when their time has come, and wake those who wait when a server's rest is over."""
        while True:
            self._event.clear()
            time, wanted = now(), self._wanted()
            for endpoint in self.endpoints:
                at = self._ask_at(endpoint, wanted)
                if at is not None and at <= time:
                    self._asking[endpoint] = asyncio.create_task(self._ask(endpoint))
            self._on_room()
            try:
                async with asyncio.timeout_at(self._next_event(time, wanted)):
                    await self._event.wait()
            except TimeoutError:
                continue

    def _ask_at(self, endpoint: Endpoint, wanted: set[str]) -> float | None:
        """When a server is to be asked next: an ejected one, or one that lacks a model which is wanted."""
        if endpoint in self._asking:
            return None
        if endpoint.state == "ejected":
            return endpoint.probe_at
        if wanted <= endpoint.models.keys():
            return None
        return self._asked_at[endpoint] + ASK_AGAIN_S

    def _next_event(self, time: float, wanted: set[str]) -> float | None:
        times = [at for endpoint in self.endpoints if (at := self._ask_at(endpoint, wanted)) is not None]
        times += [e.rests_until for e in self.endpoints if e.state != "ejected" and e.rests_until > time]
        return min(times, default=None)

    async def _ask(self, endpoint: Endpoint) -> None:
        try:
            failure = self._hear(endpoint, await self._offer(endpoint))
            if endpoint.state == "ejected":
                endpoint.probed(failure, now())
                if failure is None:
                    self._on_notice(f"{endpoint.url} answers again: on trial with one request")
        finally:
            del self._asking[endpoint]
            self._event.set()

    async def _offer(self, endpoint: Endpoint) -> list[ServedModel] | EndpointError:
        """The models that a server offers, or why it offers none."""
        self._asked_at[endpoint] = now()
        try:
            return await self._client.models(endpoint.url)
        except EndpointError as error:
            return error

    def _hear(self, endpoint: Endpoint, offer: list[ServedModel] | EndpointError) -> str | None:
        """Keep what a server says it serves; what is wrong with it, or None."""
        if isinstance(offer, EndpointError):
            return str(offer)
        models = {model.id: model.max_model_len for model in offer}
        if endpoint.heard and models.keys() != endpoint.models.keys():
            self._on_notice(f"{endpoint.url} now serves {list(models)}")
        changed, endpoint.models, endpoint.heard = models != endpoint.models, models, True
        if changed:
            self._on_change()
        return None


def now() -> float:
    """The running loop's time in seconds."""
    return asyncio.get_running_loop().time()
