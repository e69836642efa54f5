"""Both sides of the comparison on labelled cases: our verifier by its own door, and math-verify in a process apart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence

from benchmarks.verification_cases import Case, Judgement, bare
from benchmarks.verification_child import WARM_UP, Child
from gen_service.settings import VerificationSettings
from gen_service.verification.verify import Answered, Verifier


async def judged(verifier: Verifier, case: Case) -> Judgement:
    """Our verdict on one case. CPU time is this process's and the worker's, so it means something one at a time.

    The text goes through the door of a job. Where a whole text is the answer and no rule of extraction finds one, the
    text itself is compared; the worker's time is not known then.
    """
    gold = bare(case.gold)
    began = time.process_time()
    verdict = await verifier.judge(Answered(gold, None, case.pred, "stop"))
    if verdict.outcome == "no_answer" and case.level == "answer":
        answer = bare(case.pred)
        grade = await verifier.check(gold, answer)
        return Judgement(grade.outcome, f"{grade.reason}; the whole text", answer, None)
    cpu_ms = 1e3 * (time.process_time() - began + verdict.cpu_s)
    return Judgement(verdict.outcome, f"{verdict.reason}; {verdict.how}", verdict.extracted, cpu_ms)


async def judged_in_turn(cases: Iterable[Case], settings: VerificationSettings) -> list[Judgement]:
    """One after another, after a warm-up."""
    async with Verifier(settings) as verifier:
        for gold, pred in WARM_UP:
            await verifier.judge(Answered(gold, None, pred, "stop"))
        return [await judged(verifier, case) for case in cases]


async def judged_at_once(cases: Iterable[Case], settings: VerificationSettings, at_once: int = 256) -> list[Judgement]:
    """As in a job: many wait for a verdict at the same time."""
    places = asyncio.Semaphore(at_once)

    async def one(verifier: Verifier, case: Case) -> Judgement:
        async with places:
            return await judged(verifier, case)

    async with Verifier(settings) as verifier:
        return list(await asyncio.gather(*(one(verifier, case) for case in cases)))


def judged_by_math_verify(cases: Sequence[Case]) -> list[Judgement]:
    """One after another in a process apart, with a CPU budget of 20 s each."""
    with Child() as child:
        return [_by_math_verify(child, case) for case in cases]


def _by_math_verify(child: Child, case: Case) -> Judgement:
    answer = child.ask({"gold": case.gold, "pred": case.pred, "level": case.level})
    if isinstance(answer, str):
        outcome, _, reason = answer.partition(": ")
        return Judgement(outcome, reason, None, None)
    return Judgement(answer["outcome"], answer["reason"], None, answer["cpu_ms"])
