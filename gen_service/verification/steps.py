"""The steps of a verdict that the event loop and the workers have in common, so that both give the same one. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gen_service.records import How, Outcome, Verdict
from gen_service.settings import ExtractionPolicy
from gen_service.verification.extract import extract
from gen_service.verification.grade import Grade
from gen_service.verification.kind import Kind

_LONGEST_NORMALISED = 2_000
EMPTY_GOLD = "the gold is empty"
_THINK_OPEN = "<think>"
_THINK_CLOSE = "</think>"


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read in a completion.

    Attributes:
        outcome: `truncated` or `no_answer`, or None when there is an answer to grade.
        answer: the answer to grade, "" when there is none.
        extracted, normalised, how: as in a verdict.
    """

    outcome: Outcome | None
    answer: str
    extracted: str | None
    normalised: str | None
    how: How

    def verdict(self, grade: Grade, cpu_s: float = 0.0) -> Verdict:
        """The verdict that a grade of this answer is."""
        return Verdict(grade.outcome, grade.reason, self.extracted, self.normalised, self.how, grade.path, cpu_s=cpu_s)

    def without_answer(self) -> Verdict | None:
        """The verdict when there is no answer to grade."""
        if self.outcome is None:
            return None
        truncated = self.outcome == "truncated"
        reason = "the token limit came before a final answer" if truncated else "no final answer in the text"
        return Verdict(self.outcome, reason, how=self.how)


def read(kind: Kind, policy: ExtractionPolicy, reasoning: str | None, content: str, finish_reason: str) -> Reading:
    """Finds the answer in a completion.

    A kind that wants the text is given all that follows the thinking; it is in the trace already, so the verdict has
    no copy of it.
    """
    if kind.wants == "text":
        return _text(content, finish_reason)
    found = extract(reasoning, content, finish_reason, policy=policy, choices=kind.choices)
    if found.truncated:
        return Reading("truncated", "", None, None, found.how)
    if found.answer is None:
        return Reading("no_answer", "", None, None, found.how)
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
    if finish_reason == "length" or _THINK_OPEN in text:
        return Reading("truncated", "", None, None, "none")
    text = text.strip()
    return Reading(None, text, None, None, "text") if text else Reading("no_answer", "", None, None, "none")
