"""Exact rational numbers read from the ways people write them, without sympy. Pure; about 10 microseconds a number."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

SIGNIFICANT_DIGITS = 6  # a rounded decimal stands for an exact value from this many on
_LONGEST = 400
_LARGEST_POWER = 1_000  # bits of the value
_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_TEN = r" ?(?:\\times|\\cdot|\*|x) ?10\^\{?\(?([+-]?[0-9]{1,3})\)?\}?"
_INTEGER = re.compile(r"[+-]?[0-9]{1,300}")
_PLAIN = re.compile(rf"({_NUMBER})(?:/({_NUMBER}))?")
_FRAC = re.compile(rf"\\frac\{{([+-]?{_NUMBER})\}}\{{([+-]?{_NUMBER})\}}")
_MIXED = re.compile(r"([0-9]+) ?(?:\\frac\{([0-9]+)\}\{([0-9]+)\}|(?<= )([0-9]+)/([0-9]+))")
_SCIENTIFIC = re.compile(rf"({_NUMBER})(?:[eE]([+-]?[0-9]{{1,3}})|{_TEN})")
_POWER = re.compile(r"([0-9]{1,6}|\([+-]?[0-9]{1,6}\))\^\{?\(?([+-]?[0-9]{1,3})\)?\}?")
_GROUPED = re.compile(r"[1-9][0-9]{0,2}(?:(?:,[0-9]{3})+|(?: [0-9]{3})+)(?:\.[0-9]+)?")
_REPEATING = re.compile(
    r"([0-9]*)\.([0-9]*)(?:\\(?:overline|bar|dot)\{?([0-9]+)\}?(?:([0-9]*)\\dot\{?([0-9])\}?)?|\(([0-9]+)\))"
)
_GOING_ON = re.compile(r"([0-9]*)\.([0-9]{0,20}?)([0-9]{1,12}?)\3\3*(?:\\ldots|\.\.\.)")
_BASE = re.compile(r"\(?([0-9]{1,60}|[0-9A-Z]{1,60})\)?_\{?\(?([0-9]{1,2})\)?\}?")


@dataclass(frozen=True, slots=True)
class Rational:
    """A number as it was written.

    Attributes:
        value: exactly what the digits say.
        slack: one unit in the last decimal place; 0 when it was written without a decimal point.
        certain: no other reading is usual (`1,234` may be a list).
    """

    value: Fraction
    slack: Fraction = Fraction(0)
    certain: bool = True


def same_number(first: Rational, second: Rational) -> bool:
    """Whether two written numbers are the same number. Symmetric.

    Exact numbers are equal or not. A decimal also stands for a value that it cannot write out in full (1/3, a longer
    decimal) when it has at least six significant digits and is right to one unit in the last of them, so that both
    rounding and cutting off pass: 0.333333 is 1/3; 0.33 is not, nor is 0.999999 one.
    """
    if first.value == second.value:
        return True
    coarse, fine = (first, second) if first.slack > second.slack else (second, first)
    return coarse.slack > fine.slack and stands_for(coarse, fine.value)


def stands_for(decimal: Rational, value: Fraction) -> bool:
    """Whether a decimal is the rounding of a different value that its decimal places cannot hold."""
    if decimal.slack == 0 or (value / decimal.slack).denominator == 1:
        return False
    if abs(decimal.value) < decimal.slack * 10 ** (SIGNIFICANT_DIGITS - 1):
        return False
    return abs(decimal.value - value) <= decimal.slack


def integer(text: str) -> int | None:
    """The value of plain ASCII digits with an optional sign (at most 300 digits), else None."""
    return int(text) if _INTEGER.fullmatch(text) else None


def rational(text: str) -> Rational | None:
    """The number that a `normalised` text is, or None when it is anything else, or longer than 400 characters."""
    if not text or len(text) > _LONGEST:
        return None
    sign = text[0]
    read = _unsigned(text[1:] if sign in "+-" else text)
    if read is None or sign != "-":
        return read
    return Rational(-read.value, read.slack, read.certain)


def _unsigned(text: str) -> Rational | None:
    if match := _PLAIN.fullmatch(text):
        return _decimal(match[1]) if match[2] is None else _quotient(match[1], match[2])
    if match := _FRAC.fullmatch(text):
        return _quotient(match[1], match[2])
    if match := _SCIENTIFIC.fullmatch(text):
        return _scaled(_decimal(match[1]), int(match[2] or match[3]))
    if match := _POWER.fullmatch(text):
        return _power(int(match[1].strip("()")), int(match[2]))
    if _GROUPED.fullmatch(text):
        read = _decimal(text.replace(",", "").replace(" ", ""))
        return Rational(read.value, read.slack, certain=" " in text)
    return _mixed(text) or _repeating(text) or _in_base(text)


def _decimal(digits: str) -> Rational:
    places = len(digits.partition(".")[2])
    slack = Fraction(1, 10**places) if "." in digits else Fraction(0)
    return Rational(Fraction(digits), slack)


def _quotient(top: str, bottom: str) -> Rational | None:
    denominator = Fraction(bottom)
    return Rational(Fraction(top) / denominator) if denominator else None


def _scaled(number: Rational, exponent: int) -> Rational:
    scale = Fraction(10) ** exponent
    return Rational(number.value * scale, number.slack * scale, number.certain)


def _power(root: int, exponent: int) -> Rational | None:
    if root == 0 or abs(exponent) * root.bit_length() > _LARGEST_POWER:
        return None
    return Rational(Fraction(root) ** exponent)


def _mixed(text: str) -> Rational | None:
    match = _MIXED.fullmatch(text)
    if match is None:
        return None
    part = _quotient(match[2] or match[4], match[3] or match[5])
    return Rational(int(match[1]) + part.value) if part else None


def _repeating(text: str) -> Rational | None:
    """The value of `0.1\\overline{6}`, `0.1(6)`, `0.1\\dot6` or `0.1666...`, where at least two periods are written."""
    if match := _REPEATING.fullmatch(text):
        whole, before = match[1], match[2]
        period = match[6] or (match[3] + (match[4] or "") + (match[5] or ""))
    elif match := _GOING_ON.fullmatch(text):
        whole, before, period = match[1], match[2], match[3]
    else:
        return None
    nines = (10 ** len(period) - 1) * 10 ** len(before)
    value = Fraction(int(whole + before or "0"), 10 ** len(before)) + Fraction(int(period), nines)
    return Rational(value)


def _in_base(text: str) -> Rational | None:
    """The value of digits with a base as subscript (`52_8`, `1F_{16}`)."""
    match = _BASE.fullmatch(text)
    if match is None or not 2 <= int(match[2]) <= 36 or not (match[1][0].isdigit() or int(match[2]) == 16):
        return None
    try:
        return Rational(Fraction(int(match[1], int(match[2]))))
    except ValueError:  # a digit that this base does not have
        return None
