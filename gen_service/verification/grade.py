"""Is this answer the gold answer? Pure functions, without processes or time limits: run `grade` under a budget.

Two paths. `fast` needs no sympy and settles most numeric answers in microseconds; it never contradicts arithmetic.
`grade` tries it first, then has both sides parsed as LaTeX (math-verify's grammar) and compared symbolically.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gen_service.records import Outcome, Path
from gen_service.verification.guard import refusal
from gen_service.verification.rational import in_base, integer, normalised, rational

VERSION = 2

_WORDS = re.compile(r"[A-Za-z][A-Za-z' .\-]*")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\{([^{}]*)\}")
_MATH_WORDS = re.compile(r"sin|cos|tan|cot|sec|csc|log|exp|sqrt|pi|inf", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Grade:
    """How two answers compare.

    Attributes:
        outcome: `correct`, `incorrect`, `unparsable` (the answer), `ungradable` (the gold) or `error`.
        reason: what decided, in words.
        path: what decided.
    """

    outcome: Outcome
    reason: str
    path: Path = "none"


def fast(gold: str, answer: str) -> Grade | None:
    """Decides without sympy, or gives None. Linear; meant for texts of a few hundred characters.

    `correct` when both are the same after normalisation or the same rational number; `incorrect` only when both are
    certainly rational numbers that differ by more than the rounding of a written decimal could explain.
    """
    gold_integer, answer_integer = integer(gold), integer(answer)
    if gold_integer is not None and answer_integer is not None:
        return _numbers(gold_integer == answer_integer)
    gold, answer = normalised(gold), normalised(answer)
    if not gold or not answer:
        return None
    if gold == answer:
        return Grade("correct", "same text")
    expected, found = rational(gold), rational(answer)
    if expected is None or found is None:
        first, second = in_base(gold), in_base(answer)
        return _numbers(first == second) if first is not None and second is not None else None
    difference = abs(expected.value - found.value)
    if difference == 0:
        return _numbers(True)
    if expected.certain and found.certain and difference > expected.slack + found.slack:
        return _numbers(False)
    return None


def grade(gold: str, answer: str) -> Grade:
    """Compares an answer with the gold answer, by every means.

    A gold that is refused by the guard, cannot be parsed or does not equal itself is `ungradable`; an answer that is
    refused or cannot be parsed is `unparsable`. Symbolic work may take any time and memory that a caller allows.
    """
    decided = fast(gold, answer)
    if decided is not None:
        return decided
    return ungraded(gold, answer) or _as_words(gold, answer) or _as_mathematics(gold, answer)


def gold_problem(gold: str) -> str | None:
    """Why nothing can be graded against this gold, or None. May take any time that a caller allows."""
    text = normalised(gold)
    if not text:
        return "the gold is empty"
    if refused := refusal(gold):
        return f"the gold was refused: {refused}"
    if rational(text) is not None or in_base(text) is not None or words(gold) is not None:
        return None
    from gen_service.verification import symbolic

    return None if symbolic.compared(gold, gold) == "equal" else "the gold cannot be parsed, or does not equal itself"


def ungraded(gold: str, answer: str) -> Grade | None:
    """The grade when the guard refuses one of two texts that are not the very same; None when it refuses neither."""
    if gold == answer:
        return None
    if refused := refusal(gold):
        return Grade("ungradable", f"the gold was refused: {refused}")
    if refused := refusal(answer):
        return Grade("unparsable", f"refused: {refused}")
    return None


def _numbers(equal: bool) -> Grade:
    return Grade("correct", "same number") if equal else Grade("incorrect", "different numbers")


def words(text: str) -> str | None:
    """The folded words, when a text is a word or a phrase rather than mathematics, else None."""
    plain = _TEXT.sub(r"\1", normalised(text))
    as_text = plain != normalised(text)
    plain = plain.strip(" .")
    if not _WORDS.fullmatch(plain) or _MATH_WORDS.fullmatch(plain):
        return None
    folded = plain.casefold()
    if not as_text and folded != "no" and max(map(len, plain.split())) < 3:
        return None
    return folded


def _as_words(gold: str, answer: str) -> Grade | None:
    """Words are compared as words, else `no` would equal `on` as a product of letters."""
    expected, found = words(gold), normalised(_TEXT.sub(r"\1", answer)).strip(" .")
    if expected is None:
        return None
    if expected == found.casefold():
        return Grade("correct", "same words")
    return Grade("incorrect", "different words") if _WORDS.fullmatch(found) else None


def _as_mathematics(gold: str, answer: str) -> Grade:
    from gen_service.verification import symbolic

    match symbolic.compared(gold, answer):
        case "equal":
            return Grade("correct", "equal by sympy")
        case "different":
            return Grade("incorrect", "not equal by sympy")
        case "bad gold":
            return Grade("ungradable", "the gold cannot be parsed, or does not equal itself")
        case "bad answer":
            return Grade("unparsable", "the answer cannot be parsed or compared")
