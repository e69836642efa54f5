"""Looks on while virtual servers work: what is in flight when, and how many tokens have been made by then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from gen_service.endpoints.client import ServedModel
from gen_service.endpoints.draft import Draft
from gen_service.endpoints.question import Question
from gen_service.endpoints.readings import Readings
from gen_service.endpoints.servers import Requests

RAMP = 0.5
"""Share of the requests that are sent before the steady part begins: by then the limits have found themselves."""


@dataclass(frozen=True, slots=True)
class Start:
    """A request was sent: when, what was in flight with it, and the tokens that all servers had made by then."""

    at: float
    in_flight: int
    tokens: int


@dataclass(frozen=True, slots=True)
class SteadyPart:
    """While there was always another sample to send, the ramp left out."""

    seconds: float
    tokens_per_s: float
    in_flight: float


class Watch:
    """Passes requests on to servers and keeps each one's start.

    Args:
        servers: do the work.
        tokens: completion tokens that all of them have made by now.
    """

    def __init__(self, servers: Requests, tokens: Callable[[], int]) -> None:
        self.starts: list[Start] = []
        self._servers = servers
        self._tokens = tokens
        self._in_flight = 0

    async def models(self, url: str) -> list[ServedModel]:
        """As the servers have it."""
        return await self._servers.models(url)

    async def readings(self, url: str) -> Readings:
        """As the servers have it."""
        return await self._servers.readings(url)

    async def stream(self, url: str, model: str, question: Question, draft: Draft, budget: int | None) -> None:
        """As the servers have it."""
        self._in_flight += 1
        self.starts.append(Start(asyncio.get_running_loop().time(), self._in_flight, self._tokens()))
        try:
            await self._servers.stream(url, model, question, draft, budget)
        finally:
            self._in_flight -= 1


def steady_part(starts: list[Start]) -> SteadyPart | None:
    """From half of the requests to the last one; None where that took no time, since all went out at once.

    What is in flight is weighed by how long it was.
    """
    part = starts[int(len(starts) * RAMP) :]
    seconds = part[-1].at - part[0].at if part else 0.0
    if seconds <= 0:
        return None
    weighed = sum((after.at - before.at) * before.in_flight for before, after in pairwise(part))
    return SteadyPart(seconds, (part[-1].tokens - part[0].tokens) / seconds, weighed / seconds)
