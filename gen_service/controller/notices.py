"""What people should know of a job while it runs, kept as events: a server that is away, a disk that is full."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import structlog

from gen_service.controller.watch import Changes
from gen_service.errors import NotFound, Unavailable
from gen_service.store.events import Events

# A server that comes and goes for days must not fill the database; the log has them all.
KEPT_A_JOB = 200
# What waits for the database at most; beyond it notices are only logged.
WAITING = 1000
_log = structlog.get_logger(__name__)


class Notices:
    """Keeps notices in the order they came. `put` never waits; `run` writes until it is cancelled.

    Args:
        now: seconds since the epoch.
    """

    def __init__(self, events: Events, changes: Changes, now: Callable[[], float]) -> None:
        self._events = events
        self._changes = changes
        self._now = now
        self._kept: Counter[str] = Counter()
        self._waiting: asyncio.Queue[tuple[str, float, str]] = asyncio.Queue(WAITING)

    def put(self, job_id: str, words: str) -> None:
        """A notice of a job, in words."""
        _log.info("notice", job_id=job_id, words=words)
        if self._kept[job_id] == KEPT_A_JOB or self._waiting.full():
            return
        self._kept[job_id] += 1
        if self._kept[job_id] == KEPT_A_JOB:
            words += " (further notices of this job are only in the service's log)"
        self._waiting.put_nowait((job_id, self._now(), words))

    def forget(self, job_id: str) -> None:
        """The job ended: it may be forgotten how many it had."""
        self._kept.pop(job_id, None)

    async def run(self) -> None:
        """Write what comes."""
        while True:
            job_id, at, words = await self._waiting.get()
            try:
                await self._events.append(job_id, "notice", at, {"words": words})
            except (Unavailable, NotFound) as error:
                _log.warning("a notice could not be kept", job_id=job_id, words=words, error=str(error))
            self._changes.tell(job_id)
