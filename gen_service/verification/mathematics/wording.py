"""Answers in words: a phrase, a time of day, a multiple-choice letter. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

from gen_service.verification.mathematics.notation import plain_words
from gen_service.verification.mathematics.shapes import Choice, Shape, Value, Words

_WORDS = re.compile(r"[A-Za-z][A-Za-z0-9' .,:;/&!?()\-]*|[0-9][0-9.,:/\- ]*[A-Za-z][A-Za-z0-9' .,:/\-]*")
_ARTICLES = frozenset(("the", "a", "an"))
_LETTERS_WORD = re.compile(r"[A-Za-z]{3,}")
_NAMED = r"(?:(?:option|choice|answer) )?"
_LETTER_ALONE = re.compile(rf"{_NAMED}(?:\(([A-Za-z])\)|([A-Ja-j])[.)]|([A-J]))", re.IGNORECASE)
# What follows a letter and is no option: an operation, a list, another letter.
_NO_OPTION = r"(?! ?(?:[-+*/^=,;]|(?:and|or|not)(?![a-zA-Z])|\(?[A-J]\)?(?![a-zA-Z])))"
_LETTER_AND_OPTION = re.compile(rf"{_NAMED}(?:\(([A-J])\)|([A-J])(?:\)|\.|:)){_NO_OPTION} ?(.+)", re.DOTALL)
_TIME = re.compile(r"([0-9]{1,2}(?::[0-9]{2})?) ?([ap])\.? ?m\.?", re.IGNORECASE)
_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def words(text: str) -> Words | Value | None:
    """A word or a phrase, folded; a number in words is that number."""
    plain = plain_words(text)
    if not _WORDS.fullmatch(plain):
        return None
    was_text = r"\text" in text
    if not was_text and not _LETTERS_WORD.search(plain) and plain.casefold() != "no":
        return None
    if not was_text and re.fullmatch(r"[0-9.,/ ]+ ?[A-Za-z ]+", plain):
        return None  # a number and its unit
    if re.match(r"[+-]?[0-9.]", plain):
        return None
    if was_text and not re.fullmatch(r"\\text ?\{[^{}]*\}", text) and not _LETTERS_WORD.search(plain):
        return None
    folded = " ".join(word for word in plain.casefold().strip(" .!?").split() if word not in _ARTICLES)
    if folded in _NUMBERS:
        return Value(str(_NUMBERS.index(folded)))
    return Words(folded) if folded else None


def time_of_day(text: str) -> Words | None:
    """`4:30 p.m.` and its spellings."""
    match = _TIME.fullmatch(plain_words(text))
    return Words(f"{match[1].removesuffix(':00')} {match[2].lower()}m") if match else None


def choice(text: str, read: Callable[[str], Shape]) -> Choice | None:
    """A letter in brackets or set as text, or a letter with an option behind it; a lone `C` is no choice but a value,
    nor is `(x)`."""
    plain = plain_words(text)
    if match := _LETTER_ALONE.fullmatch(plain):
        letter = match[1] or match[2] or match[3]
        is_bare = text == letter or (match[1] is not None and letter in "klmnopqrstuvwxyz")
        return None if is_bare else Choice(letter.upper(), None)
    if match := _LETTER_AND_OPTION.fullmatch(plain):
        return Choice(match[1] or match[2], read(match[3]))
    return None
