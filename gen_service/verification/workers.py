"""The pool of worker processes, seen from the event loop: dispatch, budgets, replacement. No threads, no pickle."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from typing import TypeVar, cast

from gen_service.verification.exchange import Exchange, Worker, WorkerDied
from gen_service.verification.forkserver_client import Forkserver
from gen_service.verification.protocol import Configuration, Ready, Reply, Request, Unusable

_LOAD_S = 300.0
_T = TypeVar("_T")


class KindUnusable(Exception):
    """The workers cannot load their kind; the text says why."""


class WorkerPool:
    """At most `settings.workers` processes, started when first needed, kept, and replaced when they die.

    The budgets are of one request, or of each of the two steps of a `judge`: `cpu_s` of CPU time, kept by the kernel
    in the worker, and `wall_s` of wall time, kept here, from its dispatch or from the reply before it. Past either
    the worker is killed with its descendants. A worker that dies for any other cause takes no request with it: the
    request goes once more, to a fresh worker. A worker leaves after `recycle_after` requests, since sympy's caches
    grow.

    Attributes:
        asked: how many requests were sent to workers so far.
        started: how many workers were started so far.
        ended: how many of them were ended: past a budget, dead, recycled, in a cancelled request, or closed.
        ready: what the first worker said of its kind, or None.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._settings = configuration.settings
        self._forkserver = Forkserver(configuration)
        self._places = asyncio.Semaphore(self._settings.workers)
        self._idle: list[Worker] = []
        self._unfinished: set[asyncio.Task[object]] = set()
        self._closed = False
        self._asking = 0
        self.asked = 0
        self.started = 0
        self.ended = 0
        self.ready: Ready | None = None

    @property
    def busy(self) -> int:
        """How many workers are asked something now."""
        return min(self._asking, self._settings.workers)

    @property
    def waiting(self) -> int:
        """How many calls of `answer` wait for a worker."""
        return self._asking - self.busy

    async def start(self) -> Ready:
        """Starts a worker, which has the kind loaded.

        Raises:
            KindUnusable: it could not load it.
        """
        async with self._places:
            try:
                self._idle.append(await self._start())
            except WorkerDied as problem:
                raise KindUnusable(f"a worker ended while it loaded the kind ({problem})") from problem
        assert self.ready is not None
        return self.ready

    async def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Has one worker answer, in order; always at least the first, and all unless the worker ends on the way.

        What goes wrong with the request that comes next is its reply: `timeout` past a budget, `error` when workers
        keep dying or cannot load their kind.
        """
        exchange = Exchange(requests)
        self._asking += 1
        try:
            async with self._places:
                self.asked += len(requests)
                for fresh in (False, True):
                    await self._attempt(exchange, fresh)
                    if exchange.replies:
                        return exchange.replies
        except KindUnusable as problem:
            return [exchange.failed(str(problem))]
        finally:
            self._asking -= 1
        reason = "the verifier was closed" if self._closed else "two verifier processes died"
        return [exchange.failed(f"{reason} during this check")]

    async def close(self) -> None:
        """Ends all processes; requests under way end in `error`. Returns when no process is left."""
        self._closed = True
        await self._forkserver.close()
        while self._unfinished:
            await asyncio.wait(self._unfinished)
        for worker in self._idle:
            worker.writer.close()
        self.ended += len(self._idle)
        self._idle.clear()

    async def _attempt(self, exchange: Exchange, fresh: bool) -> None:
        """One try; no reply comes when the worker dies at once for a cause that is not a budget."""
        try:
            worker = self._idle.pop() if self._idle and not fresh else await self._start()
        except (WorkerDied, OSError):
            return
        try:
            await self._converse(worker, exchange)
        except TimeoutError:
            await self._end(worker)
            exchange.replies.append(exchange.overrun(None, self._settings.wall_s))
        except WorkerDied:
            if _killer(await self._end(worker)) == signal.SIGPROF and len(exchange.replies) < len(exchange.requests):
                exchange.replies.append(exchange.overrun(self._settings.cpu_s, self._settings.wall_s))
        except BaseException:  # cancelled: the worker is in the middle of requests nobody waits for
            await self._end(worker)
            raise
        else:
            if worker.leaving or worker.answered >= self._settings.recycle_after:
                await self._end(worker)
            else:
                self._idle.append(worker)

    async def _converse(self, worker: Worker, exchange: Exchange) -> None:
        """Asks, and hears the worker until it has answered all or leaves. Each thing it says renews the wall budget."""
        now = asyncio.get_running_loop().time
        async with asyncio.timeout(self._settings.wall_s) as limit:
            await worker.ask(exchange.requests)
            while len(exchange.replies) < len(exchange.requests) and not worker.leaving:
                for message in await worker.listen():
                    exchange.hear(worker, message)
                limit.reschedule(now() + self._settings.wall_s)

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
        worker = Worker(pid, reader, writer)
        try:
            self.ready = await self._loaded(worker)
        except BaseException:
            await self._end(worker)
            raise
        return worker

    async def _loaded(self, worker: Worker) -> Ready:
        try:
            async with asyncio.timeout(_LOAD_S):
                match await worker.listen():
                    case [Ready() as ready]:
                        return ready
                    case [Unusable(reason)]:
                        raise KindUnusable(reason)
                    case _:
                        raise WorkerDied("a worker began with something else")
        except TimeoutError:
            raise KindUnusable(f"loading it took more than {_LOAD_S:g} s") from None

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
