"""Verdicts on traces: extract the answer, compare it with the gold in processes that can be killed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

from gen_service.errors import SpecError
from gen_service.records import Trace, Verdict
from gen_service.settings import VerificationSettings
from gen_service.verification import kinds
from gen_service.verification.checks import Checks
from gen_service.verification.grade import Grade
from gen_service.verification.kind import Kind
from gen_service.verification.plugin import Plugin, stand_in
from gen_service.verification.protocol import Configuration, Request
from gen_service.verification.steps import Reading, read
from gen_service.verification.workers import KindUnusable, WorkerPool

_INLINE_CHARACTERS = 8_000
_BATCH = 32
_BATCH_CHARACTERS = 256_000


@dataclass(frozen=True, slots=True)
class Answered:
    """A completion to judge, with the gold answer of its prompt; None when it has none."""

    gold: str | None
    reasoning: str | None
    content: str
    finish_reason: str


class Verifier:
    """Says whether answers are right; use it as `async with Verifier(settings) as verifier`.

    The whole rule: the answer is extracted; an empty gold is `ungradable`; what takes microseconds is decided at once;
    else the gold by itself is looked at, once for all its answers, and then the answer is graded. Whatever may take
    longer runs in a worker process under the budgets of `workers`. Nothing raises: what goes wrong with one answer is
    its verdict. What is kept of earlier checks changes no verdict, only its `cpu_s`, which counts work once.

    No process starts before the first answer that needs one, unless the kind is a plug-in: its module is found here,
    but imported and run in the workers alone.

    Raises:
        SpecError: settings name no kind there is, or options it does not have; on entering also when a plug-in cannot
            be imported.
    """

    def __init__(self, settings: VerificationSettings) -> None:
        self._settings = settings
        found = kinds.found(settings)
        self._plugin = found if isinstance(found, Plugin) else None
        self._pool = WorkerPool(Configuration(settings, self._plugin.target if self._plugin else None))
        self._use(found if isinstance(found, Kind) else stand_in(found))

    async def __aenter__(self) -> Self:
        if self._plugin is not None and self._settings.enabled:
            try:
                self._use(stand_in(self._plugin, await self._pool.start()))
            except BaseException as problem:
                await self._pool.close()
                if isinstance(problem, KindUnusable):
                    raise SpecError("verification.kind", self._settings.kind, f"one that loads ({problem})") from None
                raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()
        await self._checks.landed()

    @property
    def identity(self) -> str:
        """Kind, version and a hash of what decides a verdict; of a plug-in the version is known after entering."""
        return self._identity

    @property
    def workers_started(self) -> int:
        """Worker processes started so far."""
        return self._pool.started

    @property
    def workers_ended(self) -> int:
        """Worker processes ended so far: past a budget, dead, recycled, in a cancelled check, or closed."""
        return self._pool.ended

    @property
    def worker_requests(self) -> int:
        """Requests sent to workers so far."""
        return self._pool.asked

    @property
    def workers_busy(self) -> int:
        """Worker processes that are asked something now."""
        return self._pool.busy

    @property
    def requests_waiting(self) -> int:
        """Requests that wait for a worker."""
        return self._pool.waiting

    @property
    def grades_kept(self) -> int:
        """Grades kept, at most 16,384."""
        return self._checks.grades_kept

    @property
    def under_way(self) -> int:
        """Golds and checks that workers look at for `verify`, `judge` and `check`; 0 when idle."""
        return self._checks.under_way

    async def verify(self, trace: Trace) -> Verdict:
        """The verdict on one trace: `error` when there is no completion, else as `judge`."""
        if trace.error is not None or trace.completion is None:
            return Verdict("error", trace.error or "no completion")
        completion, gold = trace.completion, trace.sample.prompt.answer
        return await self.judge(Answered(gold, completion.reasoning, completion.content, completion.finish_reason))

    async def judge(self, answered: Answered) -> Verdict:
        """The verdict on one completion.

        `unverified` when verification is off or there is no gold; `truncated` and `no_answer` by extraction; else the
        grade of the answer.
        """
        if answered.gold is None or not self._settings.enabled:
            return _unverified(answered)
        reading = await self._read(answered)
        if isinstance(reading, Verdict):
            return self._signed(reading)
        grade, cpu_s = await self._checks.graded(answered.gold, reading.answer)
        return self._signed(reading.verdict(grade, cpu_s))

    async def judge_many(self, answered: Sequence[Answered]) -> list[Verdict]:
        """The verdicts that `judge` gives, in order, wholly in the workers: extraction and short answers too.

        The answers go in batches of consecutive ones, one batch in each worker at a time.
        """
        verdicts: dict[int, Verdict] = {}
        batches = self._batches(answered)

        async def take() -> None:
            for batch in batches:
                await self._judge_batch(answered, batch, verdicts)
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._settings.workers, len(answered))):
                group.create_task(take())
        return [verdicts[index] for index in range(len(answered))]

    async def check(self, gold: str, answer: str) -> Grade:
        """Compares an answer with a gold answer; always gives a grade."""
        return (await self._checks.graded(gold, answer))[0]

    async def gold_problem(self, gold: str) -> str | None:
        """Why nothing can be graded against this gold; None when nothing is known against it."""
        problem = await self._checks.gold_problem(gold)
        return problem.reason if problem is not None and problem.outcome == "ungradable" else None

    def _use(self, kind: Kind) -> None:
        self._kind = kind
        self._checks = Checks(kind, self._pool)
        self._identity = kinds.identity(kind, self._settings, self._plugin.source if self._plugin else "")

    def _signed(self, verdict: Verdict) -> Verdict:
        return replace(verdict, verifier=self._identity)

    async def _read(self, answered: Answered) -> Reading | Verdict:
        """The answer, or the verdict when there is none. A long text is searched in a worker."""
        searched = self._searched(answered)
        if self._kind.wants == "text" or sum(len(text or "") for text in searched) <= _INLINE_CHARACTERS:
            reading = read(self._kind, self._settings.policy, *searched)
            return reading.without_answer() or reading
        (reply,) = await self._pool.answer([("read", *searched)])
        found = reply.verdict
        if found.outcome != "unverified" or found.extracted is None:
            return found
        return Reading(None, found.extracted, found.extracted, found.normalised, found.how)

    def _searched(self, answered: Answered) -> tuple[str | None, str, str]:
        """What extraction looks at; the strict policy only asks whether there was any reasoning."""
        reasoning = answered.reasoning
        if self._settings.policy == "strict" and reasoning:
            reasoning = "-"
        return reasoning, answered.content, answered.finish_reason

    def _batches(self, answered: Sequence[Answered]) -> Iterator[range]:
        """Places of at most 32 answers and about 256,000 characters; small input still reaches every worker."""
        most = max(1, min(_BATCH, -(-len(answered) // self._settings.workers)))
        start = characters = 0
        for index, one in enumerate(answered):
            characters += len(one.content)
            if index + 1 - start == most or characters >= _BATCH_CHARACTERS:
                yield range(start, index + 1)
                start, characters = index + 1, 0
        if start < len(answered):
            yield range(start, len(answered))

    async def _judge_batch(self, answered: Sequence[Answered], batch: range, verdicts: dict[int, Verdict]) -> None:
        left = []
        for index in batch:
            if answered[index].gold is None or not self._settings.enabled:
                verdicts[index] = _unverified(answered[index])
            else:
                left.append(index)
        while left:  # a worker that ends on the way leaves the rest to another
            replies = await self._pool.answer([self._request(answered[index]) for index in left])
            for index, reply in zip(left, replies, strict=False):
                verdicts[index] = self._signed(reply.verdict)
                if reply.gold_alone:
                    self._checks.learn_gold(answered[index].gold or "", reply.verdict.reason)
            left = left[len(replies) :]

    def _request(self, answered: Answered) -> Request:
        gold = answered.gold or ""
        return ("judge", gold, self._checks.gold_known(gold), *self._searched(answered))


def _unverified(answered: Answered) -> Verdict:
    return Verdict("unverified", "no gold answer" if answered.gold is None else "verification is off")
