"""Verdicts by chance, for planning a job that is steered by verdicts."""

from __future__ import annotations

import random

from gen_service.errors import SpecError
from gen_service.records import Trace, Verdict

SPREAD = 1.0
"""How alike prompts are in difficulty: a + b of the beta distribution. At 1 most prompts are nearly always or nearly
never solved, as pass rates of reasoning models on mixed problems are; an assumption."""


class ChanceVerifier:
    """Each prompt has a chance of its own to be answered right, drawn from a beta distribution of mean `p_correct`
    (Skellam's model); its answers are right or wrong by it. The same on every run.

    Args:
        p_correct: share of all answers that are right; None leaves every answer unverified.
        seed: of all draws.

    Raises:
        SpecError: not a share.
    """

    def __init__(self, p_correct: float | None, seed: int) -> None:
        if p_correct is not None and not 0 < p_correct < 1:
            raise SpecError("p-correct", p_correct, "a share of right answers, above 0 and below 1")
        self._p_correct = p_correct
        self._seed = seed

    def chance(self, prompt_id: str) -> float:
        """That an answer to this prompt is right."""
        assert self._p_correct is not None
        dice = random.Random(f"{self._seed} prompt {prompt_id}")
        return dice.betavariate(self._p_correct * SPREAD, (1 - self._p_correct) * SPREAD)

    async def verify(self, trace: Trace) -> Verdict:
        """Right or wrong by chance; takes no time. What was cut off by its length is never right."""
        if trace.completion is None:
            return Verdict("error", trace.error or "")
        if self._p_correct is None:
            return Verdict("unverified", "a plan judges nothing")
        if trace.completion.finish_reason == "length":
            return Verdict("truncated", "cut off")
        drawn = random.Random(f"{self._seed} sample {trace.sample.sample_id}").random()
        return Verdict("correct" if drawn < self.chance(trace.sample.prompt.prompt_id) else "incorrect", "by chance")
