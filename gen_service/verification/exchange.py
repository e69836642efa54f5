"""The conversation with one worker process, as the event loop has it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gen_service.records import Verdict
from gen_service.verification import protocol
from gen_service.verification.protocol import Begun, Leaving, Message, Ready, Reply, Request, Unusable


class WorkerDied(Exception):
    """A worker or the forkserver ended without answering."""


@dataclass(slots=True)
class Worker:
    """A running worker process.

    Attributes:
        pid: its process id; only the forkserver may signal it.
        answered: how many requests.
        leaving: it said that it answers nothing more.
    """

    pid: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    answered: int = 0
    leaving: bool = False

    async def ask(self, requests: Sequence[Request]) -> None:
        """Sends a frame; raises WorkerDied."""
        try:
            self.writer.write(protocol.asked(requests))
            await self.writer.drain()
        except OSError as problem:
            raise WorkerDied("the worker ended") from problem

    async def listen(self) -> list[Message]:
        """The next frame; raises WorkerDied when none can come any more."""
        try:
            size = protocol.HEADER.unpack(await self.reader.readexactly(protocol.HEADER.size))[0]
            if size > protocol.LONGEST_REPLY:
                raise WorkerDied(f"a reply of {size} bytes")
            return protocol.messages(await self.reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError, ValueError) as problem:
            raise WorkerDied("the worker ended") from problem


@dataclass(slots=True)
class Exchange:
    """What one worker has said to one frame of requests.

    Attributes:
        requests: what it was asked.
        replies: its answers so far, in order.
        begun: the long step that it is in, if it said so.
    """

    requests: Sequence[Request]
    replies: list[Reply] = field(default_factory=list)
    begun: Begun | None = None

    def hear(self, worker: Worker, message: Message) -> None:
        """Takes note; raises WorkerDied at what makes no sense here."""
        match message:
            case Reply():
                self.replies.append(message)
                self.begun = None
                worker.answered += 1
            case Begun():
                self.begun = message
            case Leaving():
                worker.leaving = True
            case Ready() | Unusable():
                raise WorkerDied("an answer that was not asked for")

    def overrun(self, cpu_s: float | None, wall_s: float) -> Reply:
        """The reply to the request that went past a budget: CPU time where it is given, else wall time.

        CPU time does not depend on load, so a gold that takes more by itself can never be graded against.
        """
        asked = self.requests[len(self.replies)][0]
        gold_alone = self.begun.phase == "gold" if self.begun else asked == "gold"
        known = self._known()
        if cpu_s is None:
            return Reply(replace(known, outcome="timeout", reason=f"wall limit of {wall_s:g} s"))
        if gold_alone:
            reason = f"the gold alone takes more than {cpu_s:g} s of CPU time"
            return Reply(replace(known, outcome="ungradable", reason=reason, cpu_s=cpu_s), gold_alone=True)
        return Reply(replace(known, outcome="timeout", reason=f"CPU limit of {cpu_s:g} s", cpu_s=cpu_s))

    def failed(self, reason: str) -> Reply:
        """The reply to the first request when no worker can answer it."""
        return Reply(replace(self._known(), outcome="error", reason=reason))

    def _known(self) -> Verdict:
        return self.begun.verdict if self.begun else Verdict("error", "")
