"""The health of every server and what each serves: ejects, probes, asks again, reads its metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from gen_service.endpoints.client import ServedModel
from gen_service.endpoints.draft import Draft
from gen_service.endpoints.endpoint import Endpoint, Place, State
from gen_service.endpoints.metrics_reader import MetricsReader
from gen_service.endpoints.question import Question
from gen_service.endpoints.readings import Readings
from gen_service.endpoints.speeds import straggler
from gen_service.endpoints.unexpected import tell
from gen_service.errors import EndpointError, SpecError

UNAUTHORISED = frozenset({401, 403})
# How often a server that lacks a model which a job wants is asked whether it has it by now.
ASK_AGAIN_S = 30.0
# How often each server's speed is looked at, and its metrics are read where its limit follows them.
READ_S = 5.0
# What a bug raised is over by then, or said again.
AFTER_A_BUG_S = 5.0
# States in which a server takes nothing until a probe is answered.
OUT: Final = ("draining", "ejected")

Notice = Callable[[str], None]


class Requests(Protocol):
    """What the fleet needs of a client."""

    async def models(self, url: str) -> list[ServedModel]:
        """The models the server offers."""
        ...

    async def readings(self, url: str) -> Readings:
        """What the server's metrics say."""
        ...

    async def stream(self, url: str, model: str, question: Question, draft: Draft, budget: int | None) -> None:
        """Fill the draft."""
        ...


class Servers:
    """Keeps every server's state: asks what it serves, takes it out when it fails, and probes it until it is back.

    Each few seconds it looks how fast every server writes, takes out one that is much slower than the others of its
    model, and breaks off what is in flight there; and it has the metrics read that limits follow. An error that only a
    bug can raise is said, and the tending goes on: without it no server would come back.

    Args:
        endpoints: the servers; who shares the list may change it in place, and calls `look_again` then.
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
        self._metrics = MetricsReader(client.readings, on_room)
        self._drained: set[Endpoint] = set()
        self._states: list[State] = []
        self._look_at = 0.0
        self._is_watching = False
        self._tending: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Ask every server, take out those that are not well, and look after them from now on.

        Raises:
            SpecError: all of them refuse the key.
        """
        asked = list(self.endpoints)
        offers = await asyncio.gather(*map(self._introduced, asked))
        if asked and all(isinstance(offer, EndpointError) and offer.status in UNAUTHORISED for offer in offers):
            raise SpecError("endpoints.api_key", "(hidden)", f"a key that the servers take; they say: {offers[0]}")
        for endpoint, offer in zip(asked, offers, strict=True):
            self._begins(endpoint, self._hear(endpoint, offer))
        self._tending = asyncio.create_task(self._tend())

    async def close(self) -> None:
        """Leave nothing running."""
        tasks = [*self._asking.values(), *self._metrics.tasks, *([self._tending] if self._tending else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def answers(self, place: Place) -> None:
        """The first token: a server on trial has room again."""
        was_on_trial = place.endpoint.state == "trial"
        place.endpoint.answers(place)
        if was_on_trial:
            self._on_change()
        if place.endpoint in self._drained and place.endpoint.state == "healthy":
            self._drained.remove(place.endpoint)
            self._on_notice(f"{place.endpoint.url} takes requests again")
        if not self._is_watching:
            self._event.set()

    def failed(self, place: Place, error: EndpointError) -> bool:
        """A request failed; whether that counts against its sample."""
        endpoint, ejections = place.endpoint, place.endpoint.ejections
        counts = endpoint.failed(error, place, now())
        if endpoint not in self.endpoints:
            # It was removed, and was to be expected to go.
            return False
        if endpoint.ejections > ejections:
            self._ejected(endpoint)
        elif endpoint.state == "draining" and endpoint not in self._drained:
            self._drained.add(endpoint)
            self._on_notice(f"{endpoint.url} drains, what is in flight there goes on: {endpoint.reason}")
            self._on_change()
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
        """Some job wants something that it did not want before, or the servers are others."""
        self._event.set()

    def _ejected(self, endpoint: Endpoint) -> None:
        self._drained.discard(endpoint)
        self._on_notice(f"ejected {endpoint.url}: {endpoint.reason}")
        self._on_change()

    async def _tend(self) -> None:
        """Ask and look when the time has come, and wake those who wait when a server's rest is over."""
        while True:
            self._event.clear()
            time = now()
            try:
                at = self._tend_at(time)
            except Exception as error:
                tell("the servers are not looked after", error)
                at = time + AFTER_A_BUG_S
            with suppress(TimeoutError):
                async with asyncio.timeout_at(at):
                    await self._event.wait()

    def _tend_at(self, time: float) -> float | None:
        """Do at loop time `time` what is to be done by then; when there is more, if nothing happens before."""
        wanted = self._wanted()
        offered = {model for one in self.endpoints if one.state == "healthy" for model in one.models}
        for endpoint in list(self.endpoints):
            if wanted & endpoint.models.keys() - offered:
                endpoint.is_needed(time)
            at = self._ask_at(endpoint, wanted)
            if at is not None and at <= time:
                self._asking[endpoint] = asyncio.create_task(self._ask(endpoint))
        # There is nothing to see where nothing is in flight; the next first token begins it again.
        self._is_watching = any(endpoint.in_flight for endpoint in self.endpoints)
        if self._is_watching and self._look_at <= time:
            self._look_at = time + READ_S
            self._look(time)
        self._on_room()
        return self._next_event(time, wanted)

    def _ask_at(self, endpoint: Endpoint, wanted: set[str]) -> float | None:
        """When a server is to be asked next: one that takes nothing, is new, or lacks a model which is wanted."""
        if endpoint in self._asking:
            return None
        if endpoint.state in OUT:
            return endpoint.probe_at
        if wanted <= endpoint.models.keys() and endpoint in self._asked_at:
            return None
        return self._asked_at.get(endpoint, float("-inf")) + ASK_AGAIN_S

    def _next_event(self, time: float, wanted: set[str]) -> float | None:
        times = [at for endpoint in self.endpoints if (at := self._ask_at(endpoint, wanted)) is not None]
        times += [e.rests_until for e in self.endpoints if e.state not in OUT and e.rests_until > time]
        return min(times + [self._look_at] * self._is_watching, default=None)

    async def _ask(self, endpoint: Endpoint) -> None:
        try:
            is_new = endpoint not in self._asked_at
            failure = self._hear(endpoint, await self._introduced(endpoint))
            if is_new:
                self._begins(endpoint, failure)
            elif endpoint.state in OUT:
                self._probed(endpoint, failure)
        except Exception as error:
            tell(f"{endpoint.url} is not asked", error)
            # Lest it is asked again at once, for ever.
            endpoint.probed(f"{type(error).__name__}: {error}", now())
        finally:
            del self._asking[endpoint]
            self._event.set()

    def _begins(self, endpoint: Endpoint, failure: str | None) -> None:
        """A server was asked for the first time."""
        if failure is not None:
            self._on_notice(f"{endpoint.url} is not ready: {failure}")
            endpoint.eject(failure, now())

    def _probed(self, endpoint: Endpoint, failure: str | None) -> None:
        ejections, was_ejected = endpoint.ejections, endpoint.state == "ejected"
        endpoint.probed(failure, now())
        if endpoint.ejections > ejections:
            self._ejected(endpoint)
        elif failure is None and was_ejected:
            self._on_notice(f"{endpoint.url} answers again: on trial with one request")

    def _look(self, time: float) -> None:
        """See how fast each server writes, and have those metrics read that limits follow."""
        for endpoint in self.endpoints:
            _break_off(endpoint.look(time))
        healthy = [endpoint for endpoint in self.endpoints if endpoint.state == "healthy"]
        for models in dict.fromkeys(frozenset(endpoint.models) for endpoint in healthy):
            found = straggler({one: one.pace for one in healthy if one.models.keys() == models})
            if found is not None:
                endpoint, speed, usual = found
                places = endpoint.eject_slow(speed, usual, time)
                self._ejected(endpoint)
                _break_off(places)
        for endpoint in self.endpoints:
            if endpoint.state not in OUT:
                self._metrics.read_later(endpoint)
        # A whole answer decides on the return of a server that was slow, and says so nowhere else.
        states = [endpoint.state for endpoint in self.endpoints]
        if states != self._states:
            self._states = states
            self._on_change()
        for gone in self._asked_at.keys() - set(self.endpoints):
            del self._asked_at[gone]
        self._drained.intersection_update(self.endpoints)

    async def _introduced(self, endpoint: Endpoint) -> list[ServedModel] | EndpointError:
        """What a server offers, after its metrics were read: before its first place is given, what fits is known."""
        offer = await self._offer(endpoint)
        if not isinstance(offer, EndpointError):
            await self._metrics.read(endpoint)
        return offer

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


def _break_off(places: Iterable[Place]) -> None:
    for place in places:
        if place.give_up is not None:
            place.give_up()


def now() -> float:
    """The running loop's time in seconds."""
    return asyncio.get_running_loop().time()
