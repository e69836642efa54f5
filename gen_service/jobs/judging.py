"""The loop of a re-verification: rows are read ahead, judged several chunks at once, and written in their order."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from gen_service.errors import StorageError
from gen_service.generation.intake import in_chunks
from gen_service.generation.pool import Stop
from gen_service.records import Outcome, Verdict
from gen_service.storage.answered_rows import AnsweredRow, Source, SourcePart, reading
from gen_service.storage.verdict_writer import VerdictWriter
from gen_service.verification.verify import Answered

Result = TypeVar("Result")

# A killed run loses what it judged since the last part: at most these rows, or about so long.
PART_ROWS = 4096
PART_S = 30.0


class Judges(Protocol):
    """What a re-verification needs of the verifier."""

    @property
    def identity(self) -> str:
        """Names the kind, the version and the configuration that judge."""
        ...

    async def judge_many(self, answers: Sequence[Answered]) -> list[Verdict]:
        """A verdict on each, in order; never raises for what a model wrote."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows are judged.

    Attributes:
        limit: at most so many rows, the first ones of the source; those judged earlier count.
        only_outcome: only rows whose stored verdict is this one.
    """

    limit: int | None = None
    only_outcome: Outcome | None = None


@dataclass(slots=True)
class ReverifyProgress:
    """What a run has done so far, for whoever shows it.

    Attributes:
        expected: rows to pass, or None when only reading tells.
        passed: rows passed: judged by this run, in the set already, or not chosen.
        judged: rows that this run judged.
        outcomes: their verdicts.
        cpu_s: CPU seconds of the workers for them.
    """

    expected: int | None = None
    passed: int = 0
    judged: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0

    def count(self, passed: int, verdicts: Sequence[Verdict]) -> None:
        """Take in a chunk of rows."""
        self.passed += passed
        self.judged += len(verdicts)
        self.outcomes.update(verdict.outcome for verdict in verdicts)
        self.cpu_s += sum(verdict.cpu_s for verdict in verdicts)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one part to be judged, and how many rows were passed to find them."""

    part: str
    rows: list[AnsweredRow]
    passed: int


class Reading:
    """Finds the rows still to be judged. Used in one thread."""

    def __init__(self, source: Source, choice: Choice, writer: VerdictWriter) -> None:
        self._source = source
        self._choice = choice
        self._writer = writer
        self._left = choice.limit

    def chunks(self) -> Iterator[Chunk]:
        """In the order of the source; also those with nothing to judge.

        Raises:
            StorageError: the source cannot be read.
        """
        with reading(self._source):
            for part in self._source.parts:
                if self._left == 0:
                    return
                if self._has_nothing(part):
                    yield Chunk(part.name, [], part.rows or 0)
                else:
                    yield from self._chunks_of(part)

    def _chunks_of(self, part: SourcePart) -> Iterator[Chunk]:
        judged = self._writer.judged(part.name)
        for rows in part.read(True):
            chosen = [row for row in rows if self._choice.only_outcome in (None, row.before)]
            if self._left is not None:
                chosen = chosen[: self._left]
                self._left -= len(chosen)
            is_fresh = np.isin([row.row for row in chosen], judged, invert=True)
            yield Chunk(part.name, [row for row, fresh in zip(chosen, is_fresh, strict=True) if fresh], len(rows))
            if self._left == 0:
                return

    def _has_nothing(self, part: SourcePart) -> bool:
        """Whether no row of a part needs to be read."""
        only = self._choice.only_outcome
        if only is not None and part.outcomes is not None and not part.outcomes.get(only):
            return True
        is_judged = part.rows is not None and self._writer.before.rows_of(part.name) == part.rows
        return is_judged and self._choice.limit is None


class Judging:
    """Keeps up to `most_open` chunks open, so memory does not grow with the source, and an answer that takes its whole
    budget holds up only what comes after all of them. Writes in one thread, in the order of the source; closes the
    writer.
    """

    def __init__(
        self, todo: Reading, verifier: Judges, writer: VerdictWriter, progress: ReverifyProgress, stop: Stop
    ) -> None:
        self._todo = todo
        self._verifier = verifier
        self._writer = writer
        self._progress = progress
        self._stop = stop
        self._open: deque[tuple[Chunk, asyncio.Task[list[Verdict]]]] = deque()
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="verdicts")
        self._part_began = 0.0

    async def run(self, most_open: int) -> bool:
        """Judge until the end or a stop; whether all is judged. What was finished is committed when this returns."""
        try:
            return await self._judge_all(most_open)
        finally:
            tasks = [task for _, task in self._open]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._in_thread(self._writer.close)
            self._writing.shutdown()

    async def _judge_all(self, most_open: int) -> bool:
        """What was read before the source failed is judged and committed like any other row."""
        chunk, unreadable = None, None
        async with aclosing(in_chunks(self._todo.chunks(), 1)) as chunks:
            while not self._stop.asked:
                try:
                    chunk = await anext(chunks, None)
                except StorageError as error:
                    unreadable = error
                    break
                if chunk is None:
                    break
                self._open.append((chunk, asyncio.create_task(self._judged(chunk.rows))))
                while len(self._open) >= most_open and await self._settle():
                    pass
        is_all_read = chunk is None and not self._stop.asked
        while self._open and await self._settle():
            pass
        await self._in_thread(self._writer.publish)
        if unreadable is not None:
            raise unreadable
        return is_all_read and not self._open

    async def _judged(self, rows: Sequence[AnsweredRow]) -> list[Verdict]:
        open_rows = [row for row in rows if row.settled is None]
        answers = [Answered(row.gold, row.reasoning, row.content, row.finish_reason) for row in open_rows]
        verdicts = iter(await self._verifier.judge_many(answers) if answers else [])
        return [row.settled or next(verdicts) for row in rows]

    async def _settle(self) -> bool:
        """Write the verdicts on the oldest open chunk; False when they are given up."""
        chunk, task = self._open[0]
        forced = asyncio.ensure_future(self._stop.wait_forced())
        try:
            await asyncio.wait({task, forced}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            forced.cancel()
        if not task.done():
            return False
        verdicts = task.result()
        self._open.popleft()
        if chunk.rows:
            await self._in_thread(self._write, chunk, verdicts)
        self._progress.count(chunk.passed, verdicts)
        return True

    def _write(self, chunk: Chunk, verdicts: list[Verdict]) -> None:
        writer = self._writer
        if not writer.open_rows:
            self._part_began = time.monotonic()
        writer.add(chunk.part, chunk.rows, verdicts)
        if writer.open_rows >= PART_ROWS or time.monotonic() - self._part_began >= PART_S:
            writer.publish()

    async def _in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        """In the one thread that writes: what a cancelled wait left there ends before the next begins."""
        return await asyncio.get_running_loop().run_in_executor(self._writing, work, *arguments)
