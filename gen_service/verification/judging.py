"""What a worker does for each request: linear code over a kind, with two small caches."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time

from gen_service.records import Verdict
from gen_service.settings import ExtractionPolicy
from gen_service.verification.caches import Lru, digest
from gen_service.verification.grade import Grade
from gen_service.verification.kind import Kind
from gen_service.verification.protocol import Phase, Reply, Request
from gen_service.verification.steps import read, settled

_GOLDS = 512
_GRADES = 2_048
_LONGEST_REASON = 300
Begin = Callable[[Phase, Verdict], None]


class Judge:
    """Answers requests of one kind.

    Golds and grades are kept by their texts, which decide them; an `error` is not.

    Args:
        begin: called before each step that may take long, with what is known by then.
    """

    def __init__(self, kind: Kind, policy: ExtractionPolicy, begin: Begin) -> None:
        self._kind = kind
        self._policy = policy
        self._begin = begin
        self._golds: Lru[bytes, str] = Lru(_GOLDS)
        self._grades: Lru[bytes, Grade] = Lru(_GRADES)

    def answer(self, request: Request) -> Reply:
        """The reply. Raises what the kind raises."""
        started = process_time()
        match request:
            case ("gold", gold):
                return self._of_gold(gold, started)
            case ("check", gold, answer):
                grade = self._graded(gold, answer, Verdict("timeout", ""))
                return Reply(_verdict(grade, process_time() - started))
            case ("read", reasoning, content, finish_reason):
                return self._of_reading(reasoning, content, finish_reason)
            case ("judge", gold, known, reasoning, content, finish_reason):
                return self._judged(gold, known, reasoning, content, finish_reason)

    def _of_gold(self, gold: str, started: float) -> Reply:
        problem = self._gold_problem(gold, Verdict("timeout", ""))
        grade = Grade("ungradable", problem) if problem else Grade("correct", "")
        return Reply(_verdict(grade, process_time() - started), gold_alone=True)

    def _of_reading(self, reasoning: str | None, content: str, finish_reason: str) -> Reply:
        reading = read(self._kind, self._policy, reasoning, content, finish_reason)
        return Reply(reading.without_answer() or reading.verdict(Grade("unverified", "")))

    def _judged(self, gold: str, known: str | None, reasoning: str | None, content: str, finish_reason: str) -> Reply:
        reading = read(self._kind, self._policy, reasoning, content, finish_reason)
        if (missing := reading.without_answer()) is not None:
            return Reply(missing)
        if (decided := settled(self._kind, gold, reading.answer)) is not None:
            return Reply(reading.verdict(_short(decided)))
        started = process_time()
        so_far = reading.verdict(Grade("timeout", ""))
        problem = self._gold_problem(gold, so_far) if known is None else known
        if problem:
            return Reply(reading.verdict(Grade("ungradable", problem), process_time() - started), gold_alone=True)
        grade = self._graded(gold, reading.answer.strip(), so_far)
        return Reply(reading.verdict(grade, process_time() - started))

    def _gold_problem(self, gold: str, so_far: Verdict) -> str:
        key = digest(gold)
        if (known := self._golds.get(key)) is None:
            self._begin("gold", so_far)
            known = (self._kind.gold_problem(gold) or "")[:_LONGEST_REASON]
            self._golds.put(key, known)
        return known

    def _graded(self, gold: str, answer: str, so_far: Verdict) -> Grade:
        key = digest(gold, answer)
        if (known := self._grades.get(key)) is None:
            self._begin("answer", so_far)
            known = _short(self._kind.grade(gold, answer))
            if known.outcome != "error":
                self._grades.put(key, known)
        return known


def _verdict(grade: Grade, cpu_s: float) -> Verdict:
    return Verdict(grade.outcome, grade.reason, path=grade.path, cpu_s=cpu_s)


def _short(grade: Grade) -> Grade:
    """With a reason of at most 300 characters, since reasons are kept and sent."""
    if len(grade.reason) <= _LONGEST_REASON:
        return grade
    return Grade(grade.outcome, grade.reason[:_LONGEST_REASON], grade.path)
