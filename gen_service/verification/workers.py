"""The pool of worker processes, seen from the event loop: dispatch, budgets, replacement. No threads, no pickle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import cast, get_args

from gen_service.records import Outcome
from gen_service.settings import VerificationSettings
from gen_service.verification.forkserver import END, FORK, REPLY, REQUEST
from gen_service.verification.grade import Grade
from gen_service.verification.worker import HEADER

_FORKSERVER = "gen_service.verification.forkserver"
_OUTCOMES: tuple[str, ...] = get_args(Outcome)


class WorkerDied(Exception):
    """A worker or the forkserver ended without answering."""


class Forkserver:
    """The process that forks workers, and the control socket to it. One request at a time."""

    def __init__(self, settings: VerificationSettings) -> None:
        self._settings = settings
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = asyncio.Lock()

    async def fork(self, channel: socket.socket) -> int:
        """Starts a worker on the other end of `channel`; gives its process id. Starts the forkserver when none runs."""
        pid, _ = await self._ask(FORK, 0, channel)
        return pid

    async def end(self, pid: int) -> int:
        """Kills a worker and its descendants; gives its wait status, or 0 when the forkserver is gone too."""
        _, status = await self._ask(END, pid, None)
        return status

    async def close(self) -> None:
        """Ends the forkserver and with it every worker; returns when the process is gone."""
        async with self._turn:
            await self._drop()

    async def _ask(self, kind: bytes, pid: int, channel: socket.socket | None) -> tuple[int, int]:
        return await asyncio.shield(asyncio.ensure_future(self._exchange(kind, pid, channel)))

    async def _exchange(self, kind: bytes, pid: int, channel: socket.socket | None) -> tuple[int, int]:
        async with self._turn:
            if self._control is None:
                if kind == END:
                    return pid, 0
                self._start()
            assert self._control is not None
            try:
                socket.send_fds(self._control, [REQUEST.pack(kind, pid)], [channel.fileno()] if channel else [])
                reply = await _received(self._control, REPLY.size)
            except (OSError, EOFError) as problem:
                await self._drop()
                if kind == END:
                    return pid, 0
                raise WorkerDied("the verifier's forkserver ended") from problem
        return cast("tuple[int, int]", REPLY.unpack(reply))

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        budgets = [str(self._settings.cpu_s), str(self._settings.memory_bytes)]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _FORKSERVER, str(theirs.fileno()), *budgets, str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_environment(),
                start_new_session=True,
            )
        self._control = ours

    async def _drop(self) -> None:
        if self._control is None or self._process is None:
            return
        self._control.shutdown(socket.SHUT_WR)
        try:
            async with asyncio.timeout(5):
                while await asyncio.get_running_loop().sock_recv(self._control, 4096):
                    pass
        except (OSError, TimeoutError):
            self._process.kill()
        self._control.close()
        self._process.wait()  # its socket is closed or it was killed: this returns at once
        self._control = self._process = None


def _environment() -> dict[str, str]:
    """Ours, with our import path; a fixed hash seed, so that sympy orders terms alike in every run; and Python's own
    integers, since gmpy2 computes for hours where no signal handler runs."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "SYMPY_GROUND_TYPES": "python"}


async def _received(channel: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = await asyncio.get_running_loop().sock_recv(channel, size - len(received))
        if not piece:
            raise EOFError
        received += piece
    return received


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
        """Sends one check and awaits its grade; raises WorkerDied when the socket closes first."""
        body = json.dumps({"gold": gold, "answer": answer}).encode()
        try:
            self.writer.write(HEADER.pack(len(body)) + body)
            await self.writer.drain()
            size = HEADER.unpack(await self.reader.readexactly(HEADER.size))[0]
            reply = json.loads(await self.reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError) as problem:
            raise WorkerDied("the worker ended") from problem
        self.checks += 1
        outcome = reply["outcome"] if reply["outcome"] in _OUTCOMES else "error"
        return Grade(cast("Outcome", outcome), str(reply["reason"]))


class WorkerPool:
    """At most `settings.workers` processes, started when first needed, kept, and replaced when they die.

    A check's budgets run from its dispatch to a worker, not from its arrival: `cpu_s` of CPU time, kept by the kernel
    in the worker, and `wall_s` of wall time, kept here. Past either the worker is killed with its descendants. A
    worker that dies for any other cause takes no check with it: the check goes once to a fresh worker.
    """

    def __init__(self, settings: VerificationSettings, recycle_after: int = 2000) -> None:
        self._settings = settings
        self._recycle_after = recycle_after
        self._forkserver = Forkserver(settings)
        self._places = asyncio.Semaphore(settings.workers)
        self._idle: list[Worker] = []
        self.killed = 0
        self.started = 0

    async def check(self, gold: str, answer: str) -> Grade:
        """Grades in a worker; always gives a grade: `timeout` past a budget, `error` when workers keep dying."""
        async with self._places:
            grade = await self._attempt(gold, answer)
            if grade is None:
                grade = await self._attempt(gold, answer)
        return grade or Grade("error", "two verifier workers died during this check")

    def pids(self) -> list[int]:
        """Process ids of the idle workers."""
        return [worker.pid for worker in self._idle]

    async def close(self) -> None:
        """Ends all processes; checks under way end in `error`."""
        for worker in self._idle:
            worker.writer.close()
        self._idle.clear()
        await self._forkserver.close()

    async def _attempt(self, gold: str, answer: str) -> Grade | None:
        """One try; None when the worker died for a cause that is not the check's budget."""
        try:
            worker = self._idle.pop() if self._idle else await self._start()
        except (WorkerDied, OSError):
            return None
        try:
            async with asyncio.timeout(self._settings.wall_s):
                grade = await worker.check(gold, answer)
        except TimeoutError:
            await self._end(worker)
            return Grade("timeout", f"wall limit of {self._settings.wall_s:g} s")
        except WorkerDied:
            if _signal(await self._end(worker)) == signal.SIGPROF:
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
        ours, theirs = socket.socketpair()
        with theirs:
            pid = await self._forkserver.fork(theirs)
        self.started += 1
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return Worker(pid, reader, writer)

    async def _end(self, worker: Worker) -> int:
        self.killed += 1
        worker.writer.close()
        return await self._forkserver.end(worker.pid)


def _signal(status: int) -> int | None:
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
