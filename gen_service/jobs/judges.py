"""Stand-in until the verifier judges many at once."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from gen_service.records import Verdict
from gen_service.verification.extract import extract
from gen_service.verification.verify import Verifier as OneByOne


@dataclass(frozen=True, slots=True)
class Answered:
    """What is judged."""

    gold: str | None
    reasoning: str | None
    content: str
    finish_reason: str


class Verifier(OneByOne):
    """Judges many."""

    @property
    def identity(self) -> str:
        """Who judges."""
        settings = json.dumps([self._settings.options, self._settings.policy], sort_keys=True)
        return f"{self._settings.kind}-1-{hashlib.blake2b(settings.encode(), digest_size=6).hexdigest()}"

    async def judge_many(self, answers: Sequence[Answered]) -> list[Verdict]:
        """A verdict on each."""
        return await asyncio.gather(*map(self._judge, answers))

    async def _judge(self, answered: Answered) -> Verdict:
        if answered.gold is None:
            return Verdict("unverified", "no gold answer")
        found = extract(answered.reasoning, answered.content, answered.finish_reason)
        if found.truncated:
            return Verdict("truncated", "the token limit came before a final answer")
        if found.answer is None:
            return Verdict("no_answer", "no final answer in the text")
        grade = await self.check(answered.gold, found.answer)
        return Verdict(grade.outcome, grade.reason, found.answer, None, found.how, grade.path, 0.0, self.identity)

    async def gold_problem(self, gold: str) -> str | None:
        """Why nothing can be graded against this gold, or None."""
        grade = await self.check(gold, "\\frac{x_0}{7919}")
        return grade.reason if grade.outcome == "ungradable" else None
