"""CPU time per item of the verifier on a realistic mix, against inline math-verify on the same items.

The mix: problems chosen by a seed, as many from each set as there are; of the answers 40% are the gold as it is
written, 30% the gold in another spelling, 30% wrong; each in a short completion. Ours counts user and system time of
the job's process and all its workers, inline math-verify that of its one process, both after a warm-up on items with
other golds: parsers and sympy build tables on first use, and a job goes on for hours.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.children import run_child
from benchmarks.figures import WIDTH, Figure, Target, compared, counted
from benchmarks.verification_answers import Answers, Item, spread
from benchmarks.verification_problems import Problem, read_problems

NAME = "verification"
FASTER = Target(at_least=3)
DISTINCT_PER_PROBLEM = 4
# Of the items that are measured, so many more are judged before.
WARM_UP_SHARE = 0.75
AGAINST = "inline math-verify, one core"


@dataclass(slots=True)
class Throughput:
    """Figures, and the mix with our last verdicts on it."""

    figures: list[Figure] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    verdicts: list[tuple[str, str, float]] = field(default_factory=list)

    def show(self) -> None:
        """Print which path decided, by set, and what it cost in the workers."""
        paths = sorted({path for _, path, _ in self.verdicts})
        table = Table(title="distinct pairs by path: share, worker's CPU ms per item", title_justify="left")
        for column in ("set", "items", *paths):
            table.add_column(column, justify="left" if column == "set" else "right")
        for source in [*sorted({item.source for item in self.items}), "all"]:
            mine = [
                verdict
                for item, verdict in zip(self.items, self.verdicts, strict=True)
                if source in ("all", item.source)
            ]
            table.add_row(source, str(len(mine)), *(_share(mine, path) for path in paths))
        Console(width=WIDTH).print(table)


def measure(
    problems: Path | None, pairs: int, repeats: int, samples: Sequence[int] = (), profile: str | None = None
) -> Throughput:
    """All mixes, sides by turns, each in a fresh process.

    Args:
        problems: a folder of problem sets, or None for the small built-in one.
        pairs: completions of each mix, as far as there are problems.
        samples: a prompt; one more mix for each number.
        profile: where to write a cProfile of grading the distinct pairs in one process.
    """
    known = read_problems(problems).problems
    found = Throughput(items=distinct_mix(known, pairs))
    found.figures, found.verdicts = _mix_figures("distinct pairs", found.items, known, repeats)
    settled = sum(path != "symbolic" for _, path, _ in found.verdicts) / len(found.verdicts)
    found.figures.append(counted(NAME, "distinct pairs settled without sympy", "%", [100 * settled]))
    for count in samples:
        items = sampled_mix(known, pairs, count)
        found.figures += _mix_figures(f"{count} samples a prompt", items, known, repeats)[0]
    if profile:
        _side("profile", found.items, warm_up_mix(known, found.items), profile)
    return found


def distinct_mix(problems: Sequence[Problem], pairs: int) -> list[Item]:
    """Completions of which no two have the same gold and answer."""
    answers = Answers(problems)
    chosen = spread(problems, -(-pairs // DISTINCT_PER_PROBLEM))
    return [item for problem in chosen for item in answers.distinct(problem, DISTINCT_PER_PROBLEM)]


def sampled_mix(problems: Sequence[Problem], pairs: int, samples: int) -> list[Item]:
    """`samples` completions of each prompt, with the same answer more than once as it comes."""
    answers = Answers(problems)
    return [item for problem in spread(problems, pairs // samples) for item in answers.samples(problem, samples)]


def warm_up_mix(problems: Sequence[Problem], measured: Sequence[Item]) -> list[Item]:
    """Completions whose golds are none of those that are measured."""
    golds = {item.gold for item in measured}
    others = [problem for problem in problems if problem.golds[0] not in golds]
    return distinct_mix(others, round(WARM_UP_SHARE * len(measured))) if others else []


def agreement(items: Sequence[Item], verdicts: Sequence[Sequence[object]]) -> float:
    """Percent of the items whose verdict is as the answer was made."""
    right = sum((verdict[0] == "correct") == item.expected for item, verdict in zip(items, verdicts, strict=True))
    return 100 * right / len(items)


def _mix_figures(
    mix: str, items: Sequence[Item], problems: Sequence[Problem], repeats: int
) -> tuple[list[Figure], list[tuple[str, str, float]]]:
    before = warm_up_mix(problems, items)
    rates: dict[str, list[tuple[float, float]]] = {"judge": [], "judge_many": []}
    for _ in range(repeats):
        sides = {side: _side(side, items, before) for side in ("judge", "math-verify", "judge_many")}
        per_core = {side: len(items) / answer["cpu_s"] for side, answer in sides.items()}
        for side, pairs in rates.items():
            pairs.append((per_core[side], per_core["math-verify"]))
    unit = "items/CPU s"
    figures = [
        compared(NAME, f"{mix} ({len(items)}): {side}", unit, pairs, AGAINST, FASTER) for side, pairs in rates.items()
    ]
    right = [agreement(items, sides[side]["verdicts"]) for side in ("judge", "math-verify")]
    words = f"math-verify: {right[1]:.1f} %"
    figures.append(counted(NAME, f"{mix}: verdicts as the answers were made", "%", [right[0]], against=words))
    return figures, [(str(one), str(path), float(cpu)) for one, path, cpu in sides["judge"]["verdicts"]]


def _side(side: str, items: Sequence[Item], before: Sequence[Item], profile: str | None = None) -> dict[str, Any]:
    given, warm_up = ([(item.gold, item.content) for item in some] for some in (items, before))
    document = {"items": given, "warm_up": warm_up, "workers": os.cpu_count() or 1, "profile": profile}
    return run_child("verification_side", {"side": side, **document})


def _share(verdicts: Sequence[tuple[str, str, float]], path: str) -> str:
    mine = [cpu_s for _, one, cpu_s in verdicts if one == path]
    return f"{100 * len(mine) / len(verdicts):.1f} %, {1e3 * sum(mine) / len(mine):.2f}" if mine else "-"
