"""When a simulated server makes the tokens of an answer: each answer at a pace of its own, or all by one engine."""

from __future__ import annotations

import asyncio
from typing import Protocol

from gen_service.endpoints.simulated.exposition import ServerNumbers
from gen_service.endpoints.simulated.request import Request
from gen_service.endpoints.simulated.script import Answer
from gen_service.endpoints.simulated.settings import SimulationSettings


class Feed(Protocol):
    """The tokens of one answer, as they are made.

    Attributes:
        queue_s: seconds that the request waited before it was begun with; None while that is not known.
        preemptions: how often it was put back to be computed again.
    """

    @property
    def queue_s(self) -> float | None: ...

    @property
    def preemptions(self) -> int: ...

    def now(self) -> float:
        """The time that the server's histograms count in, in seconds."""
        ...

    async def enter(self) -> None:
        """Return when the request may be answered."""
        ...

    async def more(self, sent: int) -> int:
        """Return when the next write is due: how many tokens, of all, it brings the answer to.

        Args:
            sent: what the last call returned; 0 at first.
        """
        ...

    async def whole(self) -> None:
        """Return when the last token is made."""
        ...

    def wrote(self, tokens: int) -> None:
        """So many more tokens are on their way to the client."""
        ...

    def leave(self) -> None:
        """The request is over, for whatever reason. Called once after `enter` has returned."""
        ...


class Pacing(Protocol):
    """Gives each request its feed."""

    def feed(self, request: Request, answer: Answer, tokens: int) -> Feed:
        """A request arrives that gets `tokens` tokens of the answer."""
        ...

    def look(self) -> None:
        """Bring the server's numbers up to now."""
        ...


class OwnPaces:
    """Each answer has the pace that the script draws, however many are running; `max_num_seqs` run at once."""

    def __init__(self, settings: SimulationSettings, numbers: ServerNumbers) -> None:
        self._settings = settings
        self._numbers = numbers
        self._places = asyncio.Semaphore(settings.max_num_seqs)

    def feed(self, request: Request, answer: Answer, tokens: int) -> Feed:
        return OwnFeed(self._settings, self._numbers, self._places, request, answer, tokens)

    def look(self) -> None:
        """Nothing: they are counted as they change."""


class OwnFeed:
    """See `Feed`."""

    preemptions = 0

    def __init__(
        self,
        settings: SimulationSettings,
        numbers: ServerNumbers,
        places: asyncio.Semaphore,
        request: Request,
        answer: Answer,
        tokens: int,
    ) -> None:
        self.queue_s: float | None = None
        self.now = asyncio.get_running_loop().time
        self._numbers = numbers
        self._places = places
        self._slow = settings.slow
        self._pace = answer.pace
        self._tokens = tokens
        self._writes = answer.pace.writes(tokens, settings.stream_interval, settings.tick_s)
        self._live_tokens = request.prompt_tokens
        self._arrived = self._started = self.now()

    async def enter(self) -> None:
        """Wait for a place among the running requests, first come first served."""
        self._numbers.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._numbers.waiting -= 1
        self._started = self.now()
        self.queue_s = self._started - self._arrived
        self._numbers.running += 1
        self._numbers.live_tokens += self._live_tokens
        self._numbers.prompt_tokens += self._live_tokens

    async def more(self, sent: int) -> int:
        end, due_s = next(self._writes)
        await self._until(due_s)
        return end

    async def whole(self) -> None:
        await self._until(self._pace.seconds(self._tokens))

    def wrote(self, tokens: int) -> None:
        self._live_tokens += tokens
        self._numbers.live_tokens += tokens
        self._numbers.generation_tokens += tokens

    def leave(self) -> None:
        self._places.release()
        self._numbers.running -= 1
        self._numbers.live_tokens -= self._live_tokens

    async def _until(self, due_s: float) -> None:
        delay = self._started + due_s * self._slow - self.now()
        if delay > 0:
            await asyncio.sleep(delay)
