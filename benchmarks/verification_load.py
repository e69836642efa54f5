"""A busy machine must not change a verdict: the same cases idle and while every core is kept busy, one by one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figures import Figure, Target, compared, counted
from benchmarks.verification_cases import Case, Judgement, evenly, read_cases, shown
from benchmarks.verification_judges import judged_at_once
from gen_service.settings import VerificationSettings

NAME = "verification"
# Spins until its parent is gone.
_SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(1_000_000):\n        pass"


def measure(files: Sequence[Path], at_most: int | None = None, spinners: int | None = None) -> list[Figure]:
    """Both runs, each with a fresh verifier, as many verdicts at once as in a job.

    Args:
        at_most: so many cases of each file, evenly spread; None for all.
        spinners: processes that keep the cores busy; None for twice the cores.
    """
    cases = [case for path in files for case in evenly(read_cases(path), at_most)]
    count = 2 * (os.cpu_count() or 1) if spinners is None else spinners
    idle, idle_s = _judged(cases)
    with spinning(count):
        busy, busy_s = _judged(cases)
    different = differing(idle, busy)
    for index in different:
        case, before, after = cases[index], idle[index], busy[index]
        print(
            f"{case.place}: gold {shown(case.gold)} text {shown(case.pred)}: {before.outcome} ({before.reason}) idle,"
        )
        print(f"    {after.outcome} ({after.reason}) under load")
    timeouts = [float(sum(one.outcome == "timeout" for one in run)) for run in (busy, idle)]
    against = f"the same {len(cases)} cases idle: {timeouts[1]:g} timeouts"
    return [
        counted(NAME, f"verdicts that differ under {count} spinning processes", "cases", [len(different)], Target(0)),
        counted(NAME, "timeouts under load", "cases", [timeouts[0]], against=against),
        compared(NAME, "the same cases under load", "s", [(busy_s, idle_s)], "idle, with the start of workers"),
    ]


def differing(idle: Sequence[Judgement], busy: Sequence[Judgement]) -> list[int]:
    """Where outcome or answer are not the same."""
    pairs = enumerate(zip(idle, busy, strict=True))
    return [index for index, (one, other) in pairs if (one.outcome, one.answer) != (other.outcome, other.answer)]


@contextmanager
def spinning(count: int) -> Iterator[None]:
    """Processes that keep `count` cores busy until the block is left, or this process ends."""
    children = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for child in children:
            child.kill()
        for child in children:
            child.wait()


def _judged(cases: Sequence[Case]) -> tuple[list[Judgement], float]:
    began = time.perf_counter()
    judgements = asyncio.run(judged_at_once(cases, VerificationSettings()))
    return judgements, time.perf_counter() - began
