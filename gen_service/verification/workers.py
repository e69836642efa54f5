"""The pool of worker processes, seen from the event loop: dispatch, budgets, replacement. No threads, no pickle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from dataclasses import dataclass
from typing import TypeVar, cast, get_args

from gen_service.records import Outcome
from gen_service.settings import VerificationSettings
from gen_service.verification.forkserver_client import Forkserver, WorkerDied
from gen_service.verification.grade import Grade
from gen_service.verification.worker import HEADER

_OUTCOMES: tuple[str, ...] = get_args(Outcome)
_LONGEST_REPLY = 64 * 1024
_T = TypeVar("_T")


@dataclass(slots=True)
class Worker:
    """A running worker process.

    Attributes:
        pid: its process id; only the forkserver may signal it.
        checks: how many it has answered.
    """

    pid: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    checks: int = 0

    async def check(self, gold: str, answer: str) -> Grade:
        """Sends one check and awaits its grade; raises WorkerDied when no grade can come any more."""
        body = json.dumps({"gold": gold, "answer": answer}).encode()
        try:
            self.writer.write(HEADER.pack(len(body)) + body)
            await self.writer.drain()
            size = HEADER.unpack(await self.reader.readexactly(HEADER.size))[0]
            if size > _LONGEST_REPLY:
                raise WorkerDied(f"a reply of {size} bytes")
            reply = json.loads(await self.reader.readexactly(size))
            outcome, reason = reply["outcome"], str(reply["reason"])
        except (asyncio.IncompleteReadError, OSError, ValueError, KeyError, TypeError) as problem:
            raise WorkerDied("the worker ended") from problem
        if outcome not in _OUTCOMES:
            raise WorkerDied(f"an unknown outcome {outcome!r}")
        self.checks += 1
        return Grade(cast("Outcome", outcome), reason)


class WorkerPool:
    """At most `settings.workers` processes, started when first needed, kept, and replaced when they die.

    A check's budgets run from its dispatch to a worker, not from its arrival: `cpu_s` of CPU time, kept by the kernel
    in the worker, and `wall_s` of wall time, kept here. Past either the worker is killed with its descendants. A
    worker that dies for any other cause takes no check with it: the check goes once more, to a fresh worker. A worker
    leaves after `recycle_after` checks, since sympy's caches grow.

    Attributes:
        started: how many workers were started so far.
        ended: how many of them were ended: past a budget, dead, recycled or in the middle of a cancelled check.
    """

    def __init__(self, settings: VerificationSettings, recycle_after: int = 2000) -> None:
        self._settings = settings
        self._recycle_after = recycle_after
        self._forkserver = Forkserver(settings)
        self._places = asyncio.Semaphore(settings.workers)
        self._idle: list[Worker] = []
        self._unfinished: set[asyncio.Task[object]] = set()
        self._closed = False
        self.started = 0
        self.ended = 0

    async def check(self, gold: str, answer: str) -> Grade:
        """Grades in a worker; always gives a grade: `timeout` past a budget, `error` when workers keep dying."""
        async with self._places:
            grade = await self._attempt(gold, answer, fresh=False) or await self._attempt(gold, answer, fresh=True)
        if self._closed:
            return grade or Grade("error", "the verifier was closed during this check")
        return grade or Grade("error", "two verifier processes died during this check")

    async def close(self) -> None:
        """Ends all processes; checks under way end in `error`. Returns when no process is left."""
        self._closed = True
        await self._forkserver.close()
        while self._unfinished:
            await asyncio.wait(self._unfinished)
        for worker in self._idle:
            worker.writer.close()
        self._idle.clear()

    async def _attempt(self, gold: str, answer: str, fresh: bool) -> Grade | None:
        """One try; None when the worker died for a cause that is not the check's budget."""
        try:
            worker = self._idle.pop() if self._idle and not fresh else await self._start()
        except (WorkerDied, OSError):
            return None
        try:
            async with asyncio.timeout(self._settings.wall_s):
                grade = await worker.check(gold, answer)
        except TimeoutError:
            await self._end(worker)
            return Grade("timeout", f"wall limit of {self._settings.wall_s:g} s")
        except WorkerDied:
            if _killer(await self._end(worker)) == signal.SIGPROF:
                return Grade("timeout", f"CPU limit of {self._settings.cpu_s:g} s")
            return None
        except BaseException:  # cancelled: the worker is in the middle of a check nobody waits for
            await self._end(worker)
            raise
        if grade.outcome == "error" or worker.checks >= self._recycle_after:
            await self._end(worker)
        else:
            self._idle.append(worker)
        return grade

    async def _start(self) -> Worker:
        """A fresh worker. When cancelled meanwhile, the worker still comes and waits among the idle ones."""
        task = asyncio.ensure_future(self._spawn())
        try:
            return await self._finished(task)
        except asyncio.CancelledError:
            task.add_done_callback(self._keep)
            raise

    def _keep(self, task: asyncio.Task[Worker]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._idle.append(task.result())

    async def _spawn(self) -> Worker:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                pid = await self._forkserver.fork(theirs)
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        self.started += 1
        return Worker(pid, reader, writer)

    async def _end(self, worker: Worker) -> int:
        """Ends a worker and its descendants; gives its wait status."""
        self.ended += 1
        worker.writer.close()
        return await self._finished(asyncio.ensure_future(self._forkserver.end(worker.pid)))

    async def _finished(self, task: asyncio.Task[_T]) -> _T:
        """Awaits a task that goes on when its waiter is cancelled."""
        self._unfinished.add(cast("asyncio.Task[object]", task))
        task.add_done_callback(lambda done: self._unfinished.discard(cast("asyncio.Task[object]", done)))
        return await asyncio.shield(task)


def _killer(status: int) -> int | None:
    """The signal that ended a process, from its wait status."""
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
