"""Every gold answer of the problem sets against itself: `correct`, or `ungradable` with a reason; nothing else."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.figures import WIDTH
from benchmarks.verification_cases import bare, shown
from benchmarks.verification_problems import Problem, read_problems
from gen_service.settings import VerificationSettings
from gen_service.verification.extract import extract
from gen_service.verification.grade import Grade
from gen_service.verification.verify import Verifier


@dataclass(slots=True)
class GoldCounts:
    """Of one problem set.

    Attributes:
        golds: gold answers, every one of a problem with several.
        outcomes: of grading each against itself.
        refused: golds by themselves that the verifier has something against.
        failures: golds with another outcome, or that do not come out of a box as they were put in.
    """

    golds: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    failures: int = 0


def run(problems: Path | None) -> bool:
    """Print a table per set, the ungradable golds and the failures; whether there was no failure."""
    counts: dict[str, GoldCounts] = {}
    found = read_problems(problems)
    pairs = [(problem, gold) for problem in found.problems for gold in problem.golds]
    judged = asyncio.run(_judged([gold for _, gold in pairs]))
    for (problem, gold), (grade, reason) in zip(pairs, judged, strict=True):
        _count(counts.setdefault(problem.source, GoldCounts()), problem, gold, grade, reason)
    _show(counts)
    print(f"{found.without_gold} rows without an answer were passed over")
    return not any(count.failures for count in counts.values())


def _count(counts: GoldCounts, problem: Problem, gold: str, grade: Grade, reason: str | None) -> None:
    counts.golds += 1
    counts.outcomes[grade.outcome] += 1
    counts.refused += reason is not None
    if grade.outcome == "ungradable" or reason is not None:
        print(f"{problem.place}: {shown(gold)} is {grade.outcome} against itself; {reason or grade.reason}")
    if grade.outcome not in ("correct", "ungradable"):
        counts.failures += 1
        print(f"FAILED {problem.place}: {shown(gold)} against itself: {grade.outcome} ({grade.reason})")
    extracted = extract(None, f"\\boxed{{{gold}}}", "stop")
    if extracted.answer != gold:
        counts.failures += 1
        print(f"FAILED {problem.place}: {shown(gold)} came out of its box as {shown(extracted.answer)}")


async def _judged(golds: Iterable[str]) -> list[tuple[Grade, str | None]]:
    """Each against itself, and what is wrong with it as a gold, by the verifier's door."""
    async with Verifier(VerificationSettings()) as verifier:

        async def one(gold: str) -> tuple[Grade, str | None]:
            return await verifier.check(gold, gold), await verifier.gold_problem(bare(gold))

        return list(await asyncio.gather(*map(one, golds)))


def _show(counts: dict[str, GoldCounts]) -> None:
    table = Table(title="golds against themselves", title_justify="left")
    for column in ("set", "golds", "correct", "ungradable", "a problem of the gold", "failures"):
        table.add_column(column, justify="left" if column == "set" else "right")
    for name, one in counts.items():
        numbers = (one.golds, one.outcomes["correct"], one.outcomes["ungradable"], one.refused, one.failures)
        table.add_row(name, *map(str, numbers))
    Console(width=WIDTH).print(table)
