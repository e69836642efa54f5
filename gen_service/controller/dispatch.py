"""Which jobs run: starts queued ones when it is their turn, follows each to its end, and settles what becomes of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass

import structlog

from gen_service.controller.conduct import conduct
from gen_service.controller.endings import Ending, Wish
from gen_service.controller.moves import patiently
from gen_service.controller.queue import Queued, next_job
from gen_service.controller.run import Run
from gen_service.controller.settling import settle
from gen_service.controller.shared import Shared
from gen_service.errors import Conflict
from gen_service.store.rows import JobRow
from gen_service.wire.states import FINAL

# Opening a job reads its manifests and journal in threads: more at once would only wait for each other.
OPENED_AT_ONCE = 4
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A queued job with its row."""

    turn: Queued
    row: JobRow


class _Opening:
    """One of the few places for jobs that open; given back once."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places: asyncio.Semaphore | None = places

    def over(self) -> None:
        if self._places is not None:
            self._places.release()
        self._places = None


class Dispatcher:
    """Holds the queue and the running jobs.

    The whole rule of a start: while fewer jobs than `fleet.max_running_jobs` take in samples, the next one is started;
    a job in its tail, all its prompts taken in, does not count, so that no server idles while a job is queued. A few
    are opened at a time. A job is in the queue, or running, or neither; its row is the truth of its state.

    Attributes:
        running: the jobs that run, by id; also those that end.
    """

    def __init__(self, shared: Shared) -> None:
        self.running: dict[str, Run] = {}
        self._shared = shared
        self._queued: dict[str, _Waiting] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(OPENED_AT_ONCE)
        self._changed = asyncio.Event()
        self._is_draining = False

    async def enqueue(self, row: JobRow) -> None:
        """The job waits for its turn from now on; its row says `queued`. One that was ended meanwhile does not."""
        self._enqueue(row, (await patiently.copy()(self._shared.store.tenants.get, row.tenant)).weight)

    def withdraw(self, job_id: str) -> bool:
        """Take a job out of the queue; False when it is not in it."""
        return self._queued.pop(job_id, None) is not None

    def end(self, job_id: str, wish: Wish) -> bool:
        """Ask a running job to end; False when it does not run."""
        run = self.running.get(job_id)
        if run is not None:
            run.end(wish)
            self._shared.changes.tell(job_id)
            self.wake()
        return run is not None

    def wake(self) -> None:
        """Something changed that may let a job start."""
        self._changed.set()

    def finish(self, row: JobRow) -> None:
        """Bring a job that does not run from `cancelling`, `expiring` or `finalizing` to its end, in the background."""
        if row.id not in self.running:
            run = self._run(row, 1.0)
            run.wish = "end"
            self._keep(self._finish(run))

    async def run(self) -> None:
        """Start jobs until cancelled."""
        while True:
            await self._places.acquire()
            opening = _Opening(self._places)
            try:
                waiting = await self._next()
            except BaseException:
                opening.over()
                raise
            run = self._run(waiting.row, waiting.turn.tenant_weight)
            self._keep(self._start(run, opening))

    async def drain(self) -> None:
        """Start no more, ask every run to end within its grace, and return when all have ended and are settled.
        Asked again, the graces end."""
        self._is_draining = True
        for run in list(self.running.values()):
            if run.wish != "end" or run.stop.asked:
                run.stop.ask()
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def abandon(self) -> None:
        """Cancel every run and leave all rows as they are: the next start goes on from there."""
        self._is_draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _next(self) -> _Waiting:
        """The job whose turn it is, when one may start; it is out of the queue then."""
        while True:
            self._changed.clear()
            active = [run.row.tenant for run in self.running.values() if run.takes_more]
            if not self._is_draining and len(active) < self._shared.settings.fleet.max_running_jobs:
                turn = next_job((waiting.turn for waiting in self._queued.values()), Counter(active))
                if turn is not None:
                    return self._queued.pop(turn.job_id)
            await self._changed.wait()

    async def _start(self, run: Run, opening: _Opening) -> None:
        """A queued job's turn, up to its end."""
        try:
            await self._shared.moves.move_surely(run.row.id, "start")
        except Conflict:
            # Cancelled or expired in the same moment; what ended it sees it run, and leaves the rest to here.
            ending = Ending(recovered="running" not in run.row.times)
            opening.over()
            await self._settle(run, ending)
        else:
            await self._follow(run, opening)

    async def _finish(self, run: Run) -> None:
        """The end of a job that is not to run any more."""
        if "running" not in run.row.times or run.row.state == "finalizing":
            await self._settle(run, Ending(recovered=True))
            return
        await self._places.acquire()
        await self._follow(run, _Opening(self._places))

    async def _follow(self, run: Run, opening: _Opening) -> None:
        row, shared = run.row, self._shared
        span = shared.tracing.job(row.id, tenant=row.tenant, kind=row.kind, model=row.model)
        try:
            ending = await conduct(run, shared, span, opening.over, self.wake)
        finally:
            opening.over()
        settled = await self._settle(run, ending)
        span.end(settled.state, settled.reason)

    async def _settle(self, run: Run, ending: Ending) -> JobRow:
        row = await settle(self._shared, run.row, ending, run)
        del self.running[row.id]
        if row.state not in FINAL:
            # Whoever resumed the job while it was still in `running` left it to here.
            row = await self._shared.moves.row(row.id)
        self._shared.notices.forget(row.id)
        if row.state == "queued" and not self._is_draining:
            self._enqueue(row, run.tenant_weight)
        elif row.state in ("cancelling", "expiring") and not self._is_draining:
            self.finish(row)
        self.wake()
        return row

    def _enqueue(self, row: JobRow, tenant_weight: float) -> None:
        if row.id not in self.running:
            turn = Queued(row.id, row.tenant, tenant_weight, row.priority, row.created_at)
            self._queued[row.id] = _Waiting(turn, row)
            self.wake()

    def _run(self, row: JobRow, tenant_weight: float) -> Run:
        run = self.running[row.id] = Run(row, tenant_weight, self._shared.settings.fleet.grace_s)
        return run

    def _keep(self, following: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(following)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.error("a job could not be settled: it goes on at the next start", exc_info=failure)
