"""The steps of a verdict that the event loop and the workers have in common, so that both give the same one. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gen_service.records import CANCELLED, How, Outcome, Verdict
from gen_service.settings import ExtractionPolicy
from gen_service.verification.extract import CUT_OFF, extract
from gen_service.verification.grade import Grade
from gen_service.verification.kind import Kind

_LONGEST_NORMALISED = 2_000
EMPTY_GOLD = "the gold is empty"
_NO_ANSWER = "no final answer in the text"
_AT_THE_LIMIT = "the token limit came before a final answer"
_NOT_NEEDED = "cut off before a final answer: the sample was not needed any more"
_NEVER_CLOSED = "the thinking was opened and never closed"
_THINK_OPEN = "<think>"
_THINK_CLOSE = "</think>"


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read in a completion.

    Attributes:
        outcome: `truncated` or `no_answer`, or None when there is an answer to grade.
        answer: the answer to grade, "" when there is none.
        extracted, normalised, how: as in a verdict.
        missing: why there is no answer to grade, "" when there is one.
    """

    outcome: Outcome | None
    answer: str
    extracted: str | None
    normalised: str | None
    how: How
    missing: str = ""

    def verdict(self, grade: Grade, cpu_s: float = 0.0) -> Verdict:
        """The verdict that a grade of this answer is."""
        return Verdict(grade.outcome, grade.reason, self.extracted, self.normalised, self.how, grade.path, cpu_s=cpu_s)

    def without_answer(self) -> Verdict | None:
        """The verdict when there is no answer to grade."""
        if self.outcome is None:
            return None
        return Verdict(self.outcome, self.missing, how=self.how)


def read(kind: Kind, policy: ExtractionPolicy, reasoning: str | None, content: str, finish_reason: str) -> Reading:
    """Finds the answer in a completion.

    A kind that wants the text is given all that follows the thinking; it is in the trace already, so the verdict has
    no copy of it.
    """
    if kind.wants == "text":
        return _text(content, finish_reason)
    found = extract(reasoning, content, finish_reason, policy=policy, choices=kind.choices)
    if found.truncated:
        return _truncated(found.how, finish_reason)
    if found.answer is None:
        return _no_answer(found.how)
    normalised = kind.normalised(found.answer) if len(found.answer) <= _LONGEST_NORMALISED else None
    return Reading(None, found.answer, found.answer, normalised, found.how)


def settled(kind: Kind, gold: str, answer: str) -> Grade | None:
    """The grade when it takes no more than microseconds, else None."""
    if not gold.strip():
        return Grade("ungradable", EMPTY_GOLD)
    return kind.fast(gold, answer)


def _text(content: str, finish_reason: str) -> Reading:
    closed = content.rfind(_THINK_CLOSE)
    text = content[closed + len(_THINK_CLOSE) :] if closed >= 0 else content
    if finish_reason in CUT_OFF or _THINK_OPEN in text:
        return _truncated("none", finish_reason)
    text = text.strip()
    return Reading(None, text, None, None, "text") if text else _no_answer("none")


def _truncated(how: How, finish_reason: str) -> Reading:
    missing = {CANCELLED: _NOT_NEEDED, "length": _AT_THE_LIMIT}.get(finish_reason, _NEVER_CLOSED)
    return Reading("truncated", "", None, None, how, missing)


def _no_answer(how: How) -> Reading:
    return Reading("no_answer", "", None, None, how, _NO_ANSWER)
