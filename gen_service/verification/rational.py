"""Exact rational numbers read from the ways people write them, without sympy. Pure; about 10 microseconds a number."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_INTEGER = re.compile(r"[+-]?[0-9]{1,300}")
_PLAIN = re.compile(rf"([+-]?)({_NUMBER})(?:/({_NUMBER}))?")
_FRAC = re.compile(rf"([+-]?)\\frac(?:\{{([+-]?{_NUMBER})\}}|([0-9]))(?:\{{([+-]?{_NUMBER})\}}|([0-9]))")
_GROUPED = re.compile(r"[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?")
# Separators that cannot be read as a list: {,} and thin spaces between groups of three digits.
_CERTAIN_SEPARATOR = re.compile(r"(?<=[0-9])(?<!\b0)(?<!\\)(?:\{,\}|,?\\!|,\\,|\\[,;:])(?=[0-9]{3}(?![0-9]))")
# After a line break (two backslashes) nothing is a command.
_EMPTY_COMMANDS = re.compile(r"(?<!\\)\\(?:(?:left|right|displaystyle|limits)(?![a-zA-Z])|[!()$])|\$")
_SPACES = re.compile(r"(?<!\\)\\(?:[,;: ]|q?quad(?![a-zA-Z]))|[\s~]+")
_IDLE_SPACE = re.compile(r"(?<![0-9a-zA-Z]) | (?![0-9a-zA-Z])")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_BASE = re.compile(r"([0-9a-zA-Z]{1,60})_\{?\(?([0-9]{1,2})\)?\}?")
_LONGEST = 400


@dataclass(frozen=True, slots=True)
class Rational:
    """A number as it was written.

    Attributes:
        value: exactly what the digits say.
        slack: one unit in the last decimal place; 0 when it was written without a decimal point.
        certain: no other reading is usual (`1,234` may be a list; `1.5/2` may be rounded).
    """

    value: Fraction
    slack: Fraction
    certain: bool


def normalised(text: str) -> str:
    """The text without what never changes its meaning in LaTeX: spacing, `\\left`, dollar signs, `\\dfrac`'s d.

    A space between two letters or digits stays, so that `1 2` and `12` differ.
    """
    text = text.strip().removesuffix(".")
    if "\\" in text:
        text = _CERTAIN_SEPARATOR.sub("", text)
        text = _FRACTIONS.sub(r"\\frac", text)
    elif "{,}" in text:
        text = _CERTAIN_SEPARATOR.sub("", text)
    text = _EMPTY_COMMANDS.sub("", text)
    return _IDLE_SPACE.sub("", _SPACES.sub(" ", text))


def integer(text: str) -> int | None:
    """The value of plain ASCII digits with an optional sign (at most 300 digits), else None."""
    return int(text) if _INTEGER.fullmatch(text) else None


def rational(text: str) -> Rational | None:
    """The number that a `normalised` text is, or None when it is anything else, or longer than 400 characters."""
    if len(text) > _LONGEST:
        return None
    if match := _PLAIN.fullmatch(text):
        sign, numerator, denominator = match.groups()
        return _quotient(sign, numerator, denominator or "1")
    if match := _FRAC.fullmatch(text):
        sign, long_top, short_top, long_bottom, short_bottom = match.groups()
        return _quotient(sign, long_top or short_top, long_bottom or short_bottom)
    if _GROUPED.fullmatch(text):
        read = rational(text.replace(",", ""))
        return Rational(read.value, read.slack, False) if read else None
    return None


def in_base(text: str) -> int | None:
    """The value of digits with a base as subscript (`52_8`, `1F_{16}`), or None when a `normalised` text is no such."""
    match = _BASE.fullmatch(text)
    if match is None or not 2 <= int(match[2]) <= 36:
        return None
    try:
        return int(match[1], int(match[2]))
    except ValueError:  # a digit that this base does not have
        return None


def _quotient(sign: str, top: str, bottom: str) -> Rational | None:
    denominator = Fraction(bottom)
    if denominator == 0:
        return None
    value = Fraction(top) / denominator
    if bottom != "1":
        return Rational(-value if sign == "-" else value, Fraction(0), "." not in top + bottom)
    slack = Fraction(1, 10 ** len(top.partition(".")[2])) if "." in top else Fraction(0)
    return Rational(-value if sign == "-" else value, slack, True)
