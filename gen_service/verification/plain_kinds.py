"""Kinds that compare texts: `exact` and `multiple_choice`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from gen_service.verification import options
from gen_service.verification.grade import Grade
from gen_service.verification.kind import Kind

EXACT_VERSION = 1
CHOICE_VERSION = 1
LETTERS = "ABCDEFGHIJ"
_INLINE = 10_000
_LONGEST_CHOICE = 2_000
_WRAPPED = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:bf|rm)|boldsymbol|mbox)\{([^{}]*)\}")
_IDLE = re.compile(r"\\[,;:! ]|\\q?quad(?![a-z])|[$*_`~]")
_LEAD = re.compile(r"^(?:(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?:? ?)+", re.IGNORECASE)
_LETTER = r"(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z]))"
_ONE = re.compile(rf"{_LETTER}(?:[.:)](?:\s.*)?)?", re.DOTALL)
_BRACKETED = re.compile(r"[(\[]([A-Za-z])[)\]].*", re.DOTALL)
_SEVERAL = re.compile(rf"{_LETTER}(?:(?:,|;|/|&| and | or |, and |, or )\s?{_LETTER})+\.?", re.IGNORECASE)


def exact(given: Mapping[str, object]) -> Kind:
    """The kind `exact`: right when both are the same text.

    Compared in Unicode's NFC form, without the space around and with each run of space as one; with
    `case_sensitive: false` also case-folded.

    Raises:
        SpecError: an option is unknown or wrong.
    """
    options.refuse_unknown("exact", given, ("case_sensitive",))
    folded = not options.flag(given, "case_sensitive", True)

    def normalised(text: str) -> str:
        text = unicodedata.normalize("NFC", text)
        if folded:
            text = unicodedata.normalize("NFC", text.casefold())
        return " ".join(text.split())

    def grade(gold: str, answer: str) -> Grade:
        same = normalised(gold) == normalised(answer)
        return Grade("correct", "same text", "text") if same else Grade("incorrect", "different texts", "text")

    def fast(gold: str, answer: str) -> Grade | None:
        return grade(gold, answer) if len(gold) + len(answer) <= _INLINE else None

    return Kind("exact", EXACT_VERSION, grade, fast=fast, normalised=normalised)


def multiple_choice(given: Mapping[str, object]) -> Kind:
    """The kind `multiple_choice`: right when both name the same letter.

    Read are `C`, `(C)`, `[C]`, `C.`, `C)`, `C: 12`, `(C) 12` and `option C`, also in `\\text{}`, bold or markdown.
    `letters` are those that there are, by default A to J. Several letters are incorrect; a text without a letter is
    unparsable, and ungradable as a gold.

    Raises:
        SpecError: an option is unknown or wrong.
    """
    options.refuse_unknown("multiple_choice", given, ("letters",))
    letters = options.letters(given, "letters", LETTERS)
    wanted = f"none of the letters {letters}"

    def gold_problem(gold: str) -> str | None:
        return None if letter(gold, letters) else f"the gold is {wanted}"

    def grade(gold: str, answer: str) -> Grade:
        expected, found = letter(gold, letters), letter(answer, letters)
        if expected is None:
            return Grade("ungradable", f"the gold is {wanted}", "text")
        if found is not None:
            same = expected == found
            return Grade("correct", "same letter", "text") if same else Grade("incorrect", "another letter", "text")
        if _SEVERAL.fullmatch(_plain(answer)):
            return Grade("incorrect", "several letters", "text")
        return Grade("unparsable", f"the answer is {wanted}", "text")

    return Kind("multiple_choice", CHOICE_VERSION, grade, gold_problem, grade, _plain, choices=True)


def letter(text: str, letters: str = LETTERS) -> str | None:
    """The one letter that a text names, upper-cased; None when it names none of these or more than one."""
    plain = _plain(text)
    match = _ONE.fullmatch(plain) or _BRACKETED.fullmatch(plain)
    if match is None or _SEVERAL.fullmatch(plain):
        return None
    found = next(group for group in match.groups() if group).upper()
    return found if found in letters else None


def _plain(text: str) -> str:
    """Without LaTeX and markdown around the words, and without what leads up to the letter; long texts are cut."""
    plain = text[:_LONGEST_CHOICE]
    for _ in range(3):
        plain = _WRAPPED.sub(r"\1", plain)
    return _LEAD.sub("", " ".join(_IDLE.sub("", plain).split()))
