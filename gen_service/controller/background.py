"""Work that goes on beside the requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog

# Between a loop's failure, which is a bug, and its next try.
AGAIN_S = 1.0
Result = TypeVar("Result")
_log = structlog.get_logger(__name__)


class Background:
    """Keeps tasks until they end; what has not ended when this is left is cancelled."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Do this; what it raises is logged."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def keep(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run this without end: where it fails it begins again, for the service needs it."""
        self.start(_kept(loop))

    async def finished(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What this gives; it is done to its end also where the caller goes away meanwhile."""
        return await asyncio.shield(self.start(work))

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.debug("work in the background ended", because=repr(failure))


async def _kept(loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        try:
            await loop()
        except Exception as failure:
            _log.error("a loop of the service failed", loop=loop.__qualname__, exc_info=failure)
        await asyncio.sleep(AGAIN_S)
