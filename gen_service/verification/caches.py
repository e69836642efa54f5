"""What is kept between checks: results by key, and results that are on their way."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def digest(*texts: str) -> bytes:
    """A key of 16 bytes for texts of any length, so that a full cache has a known size."""
    state = blake2b(digest_size=16)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        state.update(len(data).to_bytes(8, "big"))
        state.update(data)
    return state.digest()


class Lru(Generic[K, V]):
    """At most `size` results; the one used longest ago makes room."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: K) -> V | None:
        """The result, or None."""
        value = self._kept.get(key)
        if value is not None:
            self._kept.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep a result."""
        self._kept[key] = value
        self._kept.move_to_end(key)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)


@dataclass(slots=True)
class _Flight(Generic[V]):
    task: asyncio.Task[V]
    waiters: int = 0


class Flights(Generic[K, V]):
    """One computation for all who ask for the same key while it runs.

    A waiter that is cancelled leaves the others their result; when the last one is, the computation is cancelled. A
    key leaves the table with its computation, so an idle table is empty.
    """

    def __init__(self) -> None:
        self._flying: dict[K, _Flight[V]] = {}
        self._tasks: set[asyncio.Task[V]] = set()

    def __len__(self) -> int:
        return len(self._flying)

    async def join(self, key: K, compute: Callable[[], Coroutine[Any, Any, V]]) -> tuple[V, bool]:
        """The result, and whether this call began the computation. What the computation raises is raised here."""
        flight = self._flying.get(key)
        begun = flight is None
        if flight is None:
            flight = self._flying[key] = _Flight(asyncio.ensure_future(compute()))
            self._tasks.add(flight.task)
            flight.task.add_done_callback(lambda task: self._landed(key, task))
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task), begun
        except asyncio.CancelledError:
            if flight.waiters == 1 and not flight.task.done():
                self._remove(key, flight.task)
                flight.task.cancel()
            raise
        finally:
            flight.waiters -= 1

    async def landed(self) -> None:
        """Returns when no computation runs, cancelled ones included."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _landed(self, key: K, task: asyncio.Task[V]) -> None:
        self._tasks.discard(task)
        self._remove(key, task)
        if not task.cancelled():
            task.exception()  # seen: every waiter may be gone

    def _remove(self, key: K, task: asyncio.Task[V]) -> None:
        if (flight := self._flying.get(key)) is not None and flight.task is task:
            del self._flying[key]
