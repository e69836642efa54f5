"""Judges stored answers again, into a set of verdicts beside them. The traces are never written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from gen_service.generation.pool import Stop
from gen_service.jobs.judging import Choice, Judging, Reading, ReverifyProgress
from gen_service.settings import VerificationSettings
from gen_service.storage.answered_rows import Source
from gen_service.storage.disk_space import SpaceWaiter
from gen_service.storage.verdict_writer import VerdictWriter
from gen_service.verification.verify import Verifier


@dataclass(frozen=True, slots=True)
class ReverifyReport:
    """How a run ended.

    Attributes:
        place: folder or URL of the set of verdicts.
        verifier: identity of the verifier.
        progress: counts of this run.
        seconds: wall time of this run.
        complete: every chosen row of the source has its verdict in the set; False after a stop.
    """

    place: str
    verifier: str
    progress: ReverifyProgress
    seconds: float
    complete: bool


def _nothing(_: object) -> None:
    return


async def reverify(
    source: Source,
    verification: VerificationSettings,
    *,
    output: str | None = None,
    choice: Choice | None = None,
    stop: Stop | None = None,
    on_notice: Callable[[str], None] = _nothing,
    progress: ReverifyProgress | None = None,
) -> ReverifyReport:
    """Judge every chosen row that has no verdict in the set yet. The same call continues a stopped or killed one.

    Args:
        source: as `open_source` gives it; a job may have grown since the last call.
        verification: what judges, and its budgets.
        output: folder or URL of the set; by default one by the verifier's identity under the source's place for them.
        stop: asks it to end: rows under way are finished, asked twice they are given up. Finished ones are kept.
        on_notice: told in words of a full disk.
        progress: raised as it goes on.

    Raises:
        SpecError: the verification cannot be done as asked.
        StorageError: another process writes the set, it is about something else, or the disk failed.
    """
    choice, stop, progress = choice or Choice(), stop or Stop(), progress or ReverifyProgress()
    loop = asyncio.get_running_loop()
    began = loop.time()

    def notice(words: str) -> None:
        loop.call_soon_threadsafe(on_notice, words)

    space = SpaceWaiter(notice, notice)
    async with Verifier(verification) as verifier, AsyncExitStack() as stack:
        place = output or f"{source.verdicts}/{verifier.identity}"
        about = {
            "source": source.place,
            "started_at": time.time(),
            "verification": verification.model_dump(mode="json"),
        }
        writer = await asyncio.to_thread(VerdictWriter, place, source, verifier.identity, about, space)
        forcing = asyncio.create_task(_end_waits_when_forced(stop, space))
        stack.callback(forcing.cancel)
        progress.expected = _expected(source, choice)
        judging = Judging(Reading(source, choice, writer), verifier, writer, progress, stop)
        is_complete = await judging.run(2 * verification.workers + 2)
        return ReverifyReport(place, verifier.identity, progress, loop.time() - began, is_complete)


async def _end_waits_when_forced(stop: Stop, space: SpaceWaiter) -> None:
    await stop.wait_forced()
    space.give_up()


def _expected(source: Source, choice: Choice) -> int | None:
    rows = source.rows
    if choice.limit is None or rows is None or choice.only_outcome is not None:
        return rows
    return min(rows, choice.limit)
