"""The bounded pool: how many samples are open at once, and how they end when the job is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items that wait for a place, at most: enough for each place that comes free in one turn of the event loop, and few,
# since what waits was chosen before the latest answers said what is best asked next.
AHEAD = 16


class Stop:
    """Asks a running job to end.

    `ask` lets what is running go on for the grace; `at_once` ends the grace.
    """

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._at_once = asyncio.Event()

    @property
    def asked(self) -> bool:
        """Whether the job was asked to end."""
        return self._asked.is_set()

    def ask(self) -> None:
        """End after the grace; asked twice, end at once."""
        if self._asked.is_set():
            self._at_once.set()
        self._asked.set()

    async def wait(self) -> None:
        """Return when the job is asked to end."""
        await self._asked.wait()

    async def wait_forced(self) -> None:
        """Return when the job was asked twice."""
        await self._at_once.wait()

    async def wait_grace(self, grace_s: float) -> None:
        """Return when the grace is over."""
        try:
            async with asyncio.timeout(grace_s):
                await self._at_once.wait()
        except TimeoutError:
            return


class Pool(Generic[Item, Result]):
    """Takes items from a source and runs each through `make`, then `deliver`.

    Invariants: an item is read from the source only while fewer than `buffer` open ones are not in flight, and fewer
    than AHEAD wait for a place, or begin; it is open until it is delivered, so a slow disk or verifier slows the
    reading by itself. Once made, an item is always delivered: a stop cancels only what is still being made, after the
    grace. An exception from `make` or `deliver` is a bug and ends the pool.

    Attributes:
        interrupted: items given up because a stop's grace was over.

    Args:
        make: the cancellable part; nothing durable has happened before it returns.
        deliver: the part that is never cancelled by a stop.
        buffer: open items that are not in flight, at most.
        grace_s: seconds that running items get after a stop was asked for.
        in_flight: how many of the open items are at a server now.
        waiting: how many of them wait for a place there.
    """

    def __init__(
        self,
        make: Callable[[Item], Awaitable[Result]],
        deliver: Callable[[Result], Awaitable[None]],
        buffer: int,
        grace_s: float,
        stop: Stop,
        in_flight: Callable[[], int] = int,
        waiting: Callable[[], int] = int,
    ) -> None:
        self.interrupted = 0
        self._make = make
        self._deliver = deliver
        self._buffer = buffer
        self._in_flight = in_flight
        self._waiting = waiting
        self._open = self._beginning = 0
        self._room = asyncio.Event()
        self._grace_s = grace_s
        self._stop = stop
        self._making: set[asyncio.Task[None]] = set()

    def look(self) -> None:
        """An item may have gone in flight: another may be read."""
        self._room.set()

    async def run(self, items: AsyncGenerator[Item, None]) -> None:
        """Return when the source is exhausted, or a stop was asked for, and every open item has ended.

        Raises:
            Exception: the first error of the source, `make` or `deliver`.
        """
        try:
            async with asyncio.TaskGroup() as group:
                feeding = group.create_task(self._feed(group, items))
                watching = asyncio.create_task(self._end_when_asked(feeding))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            watching.cancel()
            await asyncio.wait({watching})

    async def _feed(self, group: asyncio.TaskGroup, items: AsyncGenerator[Item, None]) -> None:
        async with aclosing(items) as source:
            while not self._stop.asked:
                await self._wait_for_room()
                try:
                    item = await anext(source)
                except StopAsyncIteration:
                    return
                self._open += 1
                self._beginning += 1
                self._making.add(group.create_task(self._one(item)))

    async def _wait_for_room(self) -> None:
        while self._open - self._in_flight() >= self._buffer or self._waiting() + self._beginning >= AHEAD:
            if self._beginning:
                # Each takes its place, or waits for one, when its task begins.
                await asyncio.sleep(0)
            else:
                self._room.clear()
                await self._room.wait()

    async def _one(self, item: Item) -> None:
        self._beginning -= 1
        task = asyncio.current_task()
        assert task is not None
        try:
            try:
                result = await self._make(item)
            finally:
                self._making.discard(task)
            await self._deliver(result)
        finally:
            self._open -= 1
            self._room.set()

    async def _end_when_asked(self, feeding: asyncio.Task[None]) -> None:
        await self._stop.wait()
        feeding.cancel()
        await self._stop.wait_grace(self._grace_s)
        self.interrupted = len(self._making)
        for task in self._making:
            task.cancel()
