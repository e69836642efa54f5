"""Gold against answer: what is kept, what is joined, and what a worker is asked."""

from __future__ import annotations

from gen_service.records import Outcome
from gen_service.verification.caches import Flights, Lru, digest
from gen_service.verification.grade import Grade
from gen_service.verification.kind import Kind
from gen_service.verification.protocol import Reply, Request
from gen_service.verification.steps import EMPTY_GOLD, settled
from gen_service.verification.workers import WorkerPool

_KEPT = 16_384
_KEPT_OUTCOMES: frozenset[Outcome] = frozenset({"correct", "incorrect", "unparsable", "ungradable"})
_FINE = ""


class Checks:
    """The checks of one kind of problem.

    A gold or a check that is asked again while it runs is joined, not repeated. Golds are kept by themselves, grades
    by both texts, which decide them; a timeout or an error never is, so what is kept changes no grade. (Two answers of
    one normalised form may still differ: the guard counts what was written.)
    """

    def __init__(self, kind: Kind, pool: WorkerPool) -> None:
        self._kind = kind
        self._pool = pool
        self._golds: Lru[bytes, str] = Lru(_KEPT)
        self._grades: Lru[bytes, Grade] = Lru(_KEPT)
        self._gold_flights: Flights[bytes, Reply] = Flights()
        self._flights: Flights[bytes, Reply] = Flights()

    @property
    def grades_kept(self) -> int:
        """How many grades are kept, at most 16,384."""
        return len(self._grades)

    @property
    def under_way(self) -> int:
        """Golds and checks that workers look at; 0 when idle."""
        return len(self._gold_flights) + len(self._flights)

    async def landed(self) -> None:
        """Returns when nothing is under way."""
        await self._gold_flights.landed()
        await self._flights.landed()

    async def graded(self, gold: str, answer: str) -> tuple[Grade, float]:
        """The grade, and the CPU seconds that it took when this call began the work."""
        if (decided := settled(self._kind, gold, answer)) is not None:
            return decided, 0.0
        answer = answer.strip()
        key = digest(gold, answer)
        if (known := self._grades.get(key)) is not None:
            return known, 0.0
        problem, gold_cpu_s = await self._gold_problem(gold)
        if problem is not None:
            return problem, gold_cpu_s
        reply, begun = await self._flights.join(key, lambda: self._ask(("check", gold, answer)))
        grade = _grade(reply)
        if grade.outcome in _KEPT_OUTCOMES:
            self._grades.put(key, grade)
        return grade, gold_cpu_s + (reply.verdict.cpu_s if begun else 0.0)

    async def _gold_problem(self, gold: str) -> tuple[Grade | None, float]:
        """The grade of every answer when the gold by itself decides it, and the CPU seconds that finding out took."""
        if not self._kind.checks_gold:
            return None, 0.0
        key = digest(gold)
        if (known := self._golds.get(key)) is not None:
            return (Grade("ungradable", known) if known else None), 0.0
        reply, begun = await self._gold_flights.join(key, lambda: self._ask(("gold", gold)))
        fine = reply.verdict.outcome == "correct"
        if reply.gold_alone:
            self._golds.put(key, _FINE if fine else reply.verdict.reason)
        return (None if fine else _grade(reply)), (reply.verdict.cpu_s if begun else 0.0)

    async def gold_problem(self, gold: str) -> Grade | None:
        """The grade that every answer gets because of the gold by itself, or None."""
        return Grade("ungradable", EMPTY_GOLD) if not gold.strip() else (await self._gold_problem(gold))[0]

    def gold_known(self, gold: str) -> str | None:
        """The problem of a gold that was looked at, "" for none; None when it was not looked at."""
        return self._golds.get(digest(gold)) if self._kind.checks_gold else _FINE

    def learn_gold(self, gold: str, problem: str) -> None:
        """Keep a gold's own problem."""
        self._golds.put(digest(gold), problem)

    async def _ask(self, request: Request) -> Reply:
        return (await self._pool.answer([request]))[0]


def _grade(reply: Reply) -> Grade:
    return Grade(reply.verdict.outcome, reply.verdict.reason, reply.verdict.path)
