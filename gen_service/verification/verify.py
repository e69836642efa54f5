"""The verifier: traces in, verdicts out. Plain numbers are decided here, all else in processes that can be killed."""

from __future__ import annotations

from collections import OrderedDict
from typing import Self

from gen_service.records import Outcome, Trace, Verdict
from gen_service.settings import VerificationSettings
from gen_service.verification.extract import extract
from gen_service.verification.grade import Grade, fast, ungraded
from gen_service.verification.guard import LONGEST
from gen_service.verification.workers import WorkerPool

_INLINE_CHARACTERS = 500
_CACHED_GRADES = 8192
_CACHED_OUTCOMES: frozenset[Outcome] = frozenset({"correct", "incorrect", "unparsable", "ungradable"})


class Verifier:
    """Says whether traces are right; use it as `async with Verifier(settings) as verifier`.

    No process starts before the first answer that needs sympy. Nothing raises: what goes wrong with one answer is its
    verdict. Grades are cached by (gold, answer); a timeout or an error never is.
    """

    def __init__(self, settings: VerificationSettings) -> None:
        self._settings = settings
        self._pool = WorkerPool(settings)
        self._cache: OrderedDict[tuple[str, str], Grade] = OrderedDict()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

    @property
    def workers_started(self) -> int:
        """Worker processes started so far."""
        return self._pool.started

    @property
    def workers_ended(self) -> int:
        """Worker processes ended so far: past a budget, dead, recycled, or in a cancelled check."""
        return self._pool.ended

    @property
    def grades_kept(self) -> int:
        """Grades in the cache, at most 8192."""
        return len(self._cache)

    async def verify(self, trace: Trace) -> Verdict:
        """The verdict on one trace.

        `error` when there is no completion; `unverified` when verification is off or the prompt has no gold;
        `truncated` and `no_answer` by `extract`; else the grade of the extracted answer.
        """
        if trace.error is not None or trace.completion is None:
            return Verdict("error", trace.error or "no completion")
        gold = trace.sample.prompt.answer
        if gold is None or not self._settings.enabled:
            return Verdict("unverified", "no gold answer" if gold is None else "verification is off")
        completion = trace.completion
        found = extract(completion.reasoning, completion.content, completion.finish_reason)
        if found.truncated:
            return Verdict("truncated", "the token limit came before a final answer")
        if found.answer is None:
            return Verdict("no_answer", "no final answer in the text")
        result = await self.check(gold, found.answer)
        return Verdict(result.outcome, f"{result.reason}; {found.how}", found.answer)

    async def check(self, gold: str, answer: str) -> Grade:
        """Compares an answer with a gold answer; always gives a grade."""
        if not gold.strip():
            return Grade("ungradable", "the gold is empty")
        if len(gold) + len(answer) <= _INLINE_CHARACTERS and (decided := fast(gold, answer)) is not None:
            return decided
        if max(len(gold), len(answer)) > LONGEST:
            return ungraded(gold, answer) or Grade("correct", "same text")
        key = (gold, answer)
        if (known := self._cache.get(key)) is not None:
            self._cache.move_to_end(key)
            return known
        found = await self._pool.check(gold, answer)
        if found.outcome in _CACHED_OUTCOMES and len(gold) + len(answer) <= 2 * _INLINE_CHARACTERS:
            self._cache[key] = found
            if len(self._cache) > _CACHED_GRADES:
                self._cache.popitem(last=False)
        return found
