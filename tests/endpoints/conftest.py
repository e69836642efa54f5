"""What the tests of the fleet share: simulated servers, a wait without sleeping, and what the fleet said."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from gen_service.endpoints.simulated import SimulatedServer, SimulationSettings


class Notices(list[str]):
    """What the fleet said; `heard` waits for words."""

    def __init__(self) -> None:
        super().__init__()
        self._new = asyncio.Event()

    def __call__(self, words: str) -> None:
        self.append(words)
        self._new.set()

    async def heard(self, words: str) -> str:
        while True:
            for notice in self:
                if words in notice:
                    return notice
            self._new.clear()
            await self._new.wait()


@pytest.fixture
def notices() -> Notices:
    """To be given to a fleet, or to a job."""
    return Notices()


@pytest.fixture
def started() -> Callable[..., contextlib.AbstractAsyncContextManager[list[SimulatedServer]]]:
    """Starts a simulated server for each settings it is given."""

    @contextlib.asynccontextmanager
    async def start(*many: SimulationSettings) -> AsyncIterator[list[SimulatedServer]]:
        async with contextlib.AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(SimulatedServer(replace(one, server_index=index)))
                for index, one in enumerate(many)
            ]

    return start


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Awaitable[None]]:
    """Lets the event loop turn until something is so."""

    async def wait(condition: Callable[[], Any]) -> None:
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)

    return wait
