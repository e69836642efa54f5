"""One side of the throughput comparison in a process of its own: reads items, judges them, prints what it cost.

Input: {"side": "judge" | "judge_many" | "math-verify" | "profile", "items": [[gold, content], ...],
"warm_up": the same, judged before anything is measured, "workers": n, "profile": path or null}.
`profile` grades the items in this process under cProfile; its answer has no figures.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.measurement import tree_cpu_s
from benchmarks.verification_child import WARM_UP, PlainMathVerify, delimited
from gen_service.records import Verdict
from gen_service.settings import VerificationSettings
from gen_service.terminal.run import run_async
from gen_service.verification.extract import extract
from gen_service.verification.grade import grade
from gen_service.verification.verify import Answered, Verifier

# As many verdicts as a job with 256 in flight waits for at most.
AT_ONCE = 384
Items = Sequence[tuple[str, str]]


async def ours(items: Items, warm_up: Items, workers: int, is_many: bool) -> dict[str, Any]:
    """Our verdicts, by `judge_many` or by `judge` with many waiting at a time, with the CPU time of all processes."""
    answered, before = _answered(items), _answered([*WARM_UP, *warm_up])
    async with Verifier(VerificationSettings(workers=workers)) as verifier:
        judge = Verifier.judge_many if is_many else _at_once
        await judge(verifier, before)
        wall, cpu = time.perf_counter(), tree_cpu_s()
        verdicts = await judge(verifier, answered)
        cost = {"cpu_s": tree_cpu_s() - cpu, "wall_s": time.perf_counter() - wall}
    return {**cost, "verdicts": [(one.outcome, one.path, one.cpu_s) for one in verdicts]}


async def _at_once(verifier: Verifier, answered: Sequence[Answered]) -> list[Verdict]:
    places = asyncio.Semaphore(AT_ONCE)

    async def one(given: Answered) -> Verdict:
        async with places:
            return await verifier.judge(given)

    return list(await asyncio.gather(*map(one, answered)))


def _answered(items: Items) -> list[Answered]:
    return [Answered(gold, None, content, "stop") for gold, content in items]


def math_verify(items: Items, warm_up: Items) -> dict[str, Any]:
    """Inline math-verify: parse both, compare, one after another in this process."""
    plain = PlainMathVerify()
    for gold, content in (*WARM_UP, *warm_up):
        plain.right(delimited(gold), content)
    wall, cpu = time.perf_counter(), time.process_time()
    right = [plain.right(delimited(gold), content)[0] for gold, content in items]
    cost = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    return {**cost, "verdicts": [("correct" if one else "incorrect", "none", 0.0) for one in right]}


def profiled(items: Items, warm_up: Items, path: str) -> dict[str, Any]:
    """Extraction and grading inline, as a worker does it, under cProfile."""
    for gold, content in (*WARM_UP, *warm_up):
        grade(gold, extract(None, content, "stop").answer or "")
    profiler = cProfile.Profile()
    profiler.enable()
    for gold, content in items:
        grade(gold, extract(None, content, "stop").answer or "")
    profiler.disable()
    profiler.dump_stats(path)
    return {}


def main() -> None:
    """Read the input, print the answer."""
    given = json.load(sys.stdin)
    items, warm_up = ([(gold, content) for gold, content in given[name]] for name in ("items", "warm_up"))
    match given["side"]:
        case "math-verify":
            answer = math_verify(items, warm_up)
        case "profile":
            answer = profiled(items, warm_up, given["profile"])
        case side:
            answer = run_async(ours(items, warm_up, given["workers"], side == "judge_many"))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
