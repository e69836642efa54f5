"""What the watchers of a job share: one look at it a tick, however many they are.

A feed wakes when the controller says that something of its job changed, and reads the job's row once. Between changes
it only looks at the live numbers, once a second, which costs no read. Watchers read on from the last event they
sent; those at the same place share one read. A slow watcher holds up nobody: it finds the look of then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from fastapi.sse import format_sse_event

from gen_service.controller.controller import Controller
from gen_service.errors import NotFound
from gen_service.store.rows import EventRow, JobRow
from gen_service.wire.jobs import JobEventView, JobView
from gen_service.wire.states import FINAL

PROGRESS_S = 1.0
EVENTS_AT_ONCE = 200
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Look:
    """The job at one moment.

    Attributes:
        number: rises with every look.
        change: rises with every look that may have found new events.
        progress: the event with the live numbers, encoded; None before the first.
        is_last: nothing more will come of this feed.
    """

    number: int = 0
    change: int = 0
    progress: bytes | None = None
    is_last: bool = False


class Feed:
    """Looks at one job for all its watchers. Made by `Feeds`."""

    def __init__(self, controller: Controller, job_id: str) -> None:
        self._controller = controller
        self._job_id = job_id
        self._look = Look()
        self._fresh = asyncio.Event()
        self._numbers: str | None = None
        self._told_at = -PROGRESS_S
        self._reads: dict[int, asyncio.Task[list[tuple[int, bytes]]]] = {}
        self.watchers = 0

    async def after(self, number: int) -> Look:
        """The newest look, once there is one newer than `number`."""
        while self._look.number <= number and not self._look.is_last:
            await self._fresh.wait()
        return self._look

    async def events(self, after: int) -> list[tuple[int, bytes]]:
        """The next kept events after the id `after`, encoded, with their ids; empty where there are no more."""
        read = self._reads.get(after)
        if read is None:
            read = self._reads[after] = asyncio.create_task(self._read(after))
        # A watcher that leaves must not take the read from the others.
        return await asyncio.shield(read)

    async def run(self) -> None:
        """Look until the job has ended, is gone, or the service drains."""
        try:
            while not self._look.is_last:
                changed = self._controller.changed(self._job_id)
                row = await self._controller.store.jobs.get(self._job_id, None)
                self._reads.clear()
                self._tell(row, change=self._look.change + 1, is_last=row.state in FINAL or self._controller.draining)
                while not self._look.is_last and not await _happens_within(changed, PROGRESS_S):
                    self._tell(row, change=self._look.change, is_last=self._controller.draining)
        except NotFound:
            pass
        except Exception as error:
            _log.error("a job's feed failed", job_id=self._job_id, exc_info=error)
        finally:
            self._show(Look(self._look.number + 1, self._look.change, self._look.progress, is_last=True))

    async def _read(self, after: int) -> list[tuple[int, bytes]]:
        rows = await self._controller.store.events.since(self._job_id, after, EVENTS_AT_ONCE)
        return [(row.id, encoded(_view_of(row))) for row in rows]

    def _tell(self, row: JobRow, *, change: int, is_last: bool) -> None:
        progress, now = self._look.progress, asyncio.get_running_loop().time()
        if is_last or now - self._told_at >= PROGRESS_S:
            view = self._controller.view(row)
            numbers = view.model_dump_json(include={"counts", "rates", "servers"})
            if numbers != self._numbers:
                self._numbers, self._told_at, progress = numbers, now, encoded(_progress_of(view))
        if change != self._look.change or progress is not self._look.progress or is_last:
            self._show(Look(self._look.number + 1, change, progress, is_last))

    def _show(self, look: Look) -> None:
        self._look, fresh, self._fresh = look, self._fresh, asyncio.Event()
        fresh.set()


class Feeds:
    """The feeds of all jobs that are watched now."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._feeds: dict[str, tuple[Feed, asyncio.Task[None]]] = {}

    @contextlib.contextmanager
    def watching(self, job_id: str) -> Iterator[Feed]:
        """The job's feed; it runs while it has watchers."""
        if job_id not in self._feeds:
            feed = Feed(self._controller, job_id)
            self._feeds[job_id] = feed, asyncio.create_task(feed.run())
        feed, task = self._feeds[job_id]
        feed.watchers += 1
        try:
            yield feed
        finally:
            feed.watchers -= 1
            if feed.watchers == 0:
                del self._feeds[job_id]
                task.cancel()


def encoded(event: JobEventView) -> bytes:
    """The event as a server-sent one. ASCII, since a line separator within a text would end a line of it."""
    data = event.model_dump_json(ensure_ascii=True)
    return format_sse_event(data_str=data, event=event.type, id=None if event.id is None else str(event.id))


def _view_of(row: EventRow) -> JobEventView:
    at = datetime.fromtimestamp(row.at, UTC)
    return JobEventView.model_validate(
        {"id": row.id, "type": row.type, "job_id": row.job_id, "at": at, "data": row.data}
    )


def _progress_of(view: JobView) -> JobEventView:
    numbers = view.model_dump(mode="json", include={"counts", "rates", "servers"})
    return JobEventView(id=None, type="progress", job_id=view.id, at=datetime.now(UTC), data=numbers)


async def _happens_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
