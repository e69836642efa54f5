"""Which prompts have a gold that nothing can be graded against."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path

from gen_service.generation.intake import in_chunks
from gen_service.settings import VerificationSettings
from gen_service.storage.answered_rows import AnsweredRow, Source, reading
from gen_service.storage.seen import Seen
from gen_service.verification.verify import Verifier


@dataclass(frozen=True, slots=True)
class GoldProblem:
    """A gold that cannot be graded against.

    Attributes:
        prompt: id of the prompt; the gold itself where rows have no prompt id.
        sample_id: of the first row with it.
        gold: as it is stored; None when it is no text.
        reason: why.
    """

    prompt: str
    sample_id: str
    gold: str | None
    reason: str


async def gold_problems(source: Source, verification: VerificationSettings) -> AsyncGenerator[GoldProblem, None]:
    """The problems in the order of the source, each prompt's once; rows without a gold have none.

    Raises:
        SpecError: the verification cannot be done as asked.
        StorageError: the source cannot be read.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gen-service-"))
        seen = stack.enter_context(Seen(Path(folder) / "prompts"))
        async with Verifier(verification) as verifier, aclosing(in_chunks(_prompts(source, seen), 1)) as chunks:
            async for rows in chunks:
                for row, reason in zip(
                    rows, await asyncio.gather(*(_reason(verifier, row) for row in rows)), strict=True
                ):
                    if reason is not None:
                        yield GoldProblem(row.prompt, row.sample_id, row.gold, reason)


async def _reason(verifier: Verifier, row: AnsweredRow) -> str | None:
    if row.gold is not None:
        return await verifier.gold_problem(row.gold)
    return row.settled.reason if row.settled is not None and row.settled.outcome == "ungradable" else None


def _prompts(source: Source, seen: Seen) -> Iterator[list[AnsweredRow]]:
    """The first row of each prompt."""
    with reading(source):
        for part in source.parts:
            for rows in part.read(False):
                yield [row for row in rows if seen.add(row.prompt)]
