"""One number against another, within a tolerance. Exact arithmetic without sympy; microseconds for any text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from gen_service.verification import options
from gen_service.verification.grade import Grade
from gen_service.verification.kind import Kind

VERSION = 1
RELATIVE_TOLERANCE = 1e-6
ABSOLUTE_TOLERANCE = 0.0
_LONGEST = 200
_LARGEST_EXPONENT = 400
_DECIMAL = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_TIMES = r"(?:\\times|\\cdot|\u00d7|\u00b7|\*|x)"
_POWER = rf"(?:[eE]([+-]?[0-9]{{1,4}})|{_TIMES}10(?:\^|\*\*)(?:\{{([+-]?[0-9]{{1,4}})\}}|([+-]?[0-9]{{1,4}})))"
_NUMBER = re.compile(rf"([+-]?)({_DECIMAL})(?:{_POWER})?(?:/([+-]?{_DECIMAL}))?(\\?%)?")
_POWER_OF_TEN = re.compile(r"([+-]?)10(?:\^|\*\*)(?:\{([+-]?[0-9]{1,4})\}|([+-]?[0-9]{1,4}))")
_FRACTION = re.compile(rf"([+-]?)\\[dtc]?frac\{{([+-]?{_DECIMAL})\}}\{{([+-]?{_DECIMAL})\}}(\\?%)?")
_SHORT_FRACTION = re.compile(r"([+-]?)\\[dtc]?frac([0-9])([0-9])(\\?%)?")
_IDLE = re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|\\[,;:! ()\[\]]|(?<!\\)\$|~|(?<![0-9])\s+|\s+(?![0-9])")
_SEPARATED = r"(?:,\\!|,|\{,\}|_|\\,|\\!|\u202f|\u2009)"
_GROUPED = re.compile(rf"(?<![0-9.])[1-9][0-9]{{0,2}}(?:{_SEPARATED}[0-9]{{3}})+(?![0-9])")
_SEPARATOR = re.compile(rf"(?<=[0-9]){_SEPARATED}(?=[0-9]{{3}}(?![0-9]))")
_NAMED = re.compile(r"^[A-Za-z]\w{0,20}(?:=|\\approx|≈)|^(?:=|\\approx|≈)")
_CURRENCY = re.compile(r"^([+-]?)(?:\\\$|[€£¥])")
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boldsymbol|mbox)\{([^{}]*)\}")
_UNIT = re.compile(
    r"(?:[a-zA-Zµ°Ω/*·^\-]|\\(?:circ|cdot|degree|mu|Omega)|(?<=\^)\{?-?[0-9]\}?|(?<=[a-zA-Z])[0-9])+\.?$"
)


def kind(given: Mapping[str, object]) -> Kind:
    """The kind `numeric`.

    Right when the two numbers differ by at most the larger of `absolute_tolerance` (default 0) and
    `relative_tolerance` (default 1e-6) times the gold. Reads integers, decimals, fractions, `1.5e3` and
    `1.5\\times10^3`, percent as hundredths, thousands separators, `x =` before the number, and with `ignore_units` one
    unit or currency sign; any other text is unparsable, and ungradable as a gold.

    Raises:
        SpecError: an option is unknown or wrong.
    """
    options.refuse_unknown("numeric", given, ("relative_tolerance", "absolute_tolerance", "ignore_units"))
    relative = Fraction(repr(options.tolerance(given, "relative_tolerance", RELATIVE_TOLERANCE)))
    absolute = Fraction(repr(options.tolerance(given, "absolute_tolerance", ABSOLUTE_TOLERANCE)))
    ignore_units = options.flag(given, "ignore_units", False)

    def gold_problem(gold: str) -> str | None:
        return None if number(gold, ignore_units) is not None else "the gold is no number"

    def grade(gold: str, answer: str) -> Grade:
        expected, found = number(gold, ignore_units), number(answer, ignore_units)
        if expected is None:
            return Grade("ungradable", "the gold is no number", "number")
        if found is None:
            return Grade("unparsable", "the answer is no number", "number")
        if expected == found:
            return Grade("correct", "same number", "number")
        if abs(expected - found) <= max(absolute, relative * abs(expected)):
            return Grade("correct", "same number within the tolerance", "number")
        return Grade("incorrect", "different numbers", "number")

    return Kind("numeric", VERSION, grade, gold_problem, grade, normalised)


def normalised(text: str) -> str:
    """The text without thousands separators, dollar signs, sizing commands, and spaces that part no two digits."""
    if len(text) > _LONGEST:
        return text.strip()
    plain = _WRAPPED.sub(r"\1", text.strip().replace("\u2212", "-"))
    plain = _GROUPED.sub(lambda match: _SEPARATOR.sub("", match[0]), plain)
    return _IDLE.sub("", plain).removesuffix(".")


def number(text: str, ignore_units: bool = False) -> Fraction | None:
    """The number that a text is, exactly; None when it is anything else, or longer than 200 characters."""
    if len(text) > _LONGEST:
        return None
    plain = _NAMED.sub("", normalised(text))
    if ignore_units:
        plain = _CURRENCY.sub(r"\1", plain)
    value = _read(plain)
    if value is None and ignore_units:
        value = _read(_UNIT.sub("", plain))
    return value


def _read(text: str) -> Fraction | None:
    if match := _POWER_OF_TEN.fullmatch(text):
        sign, long, short = match.groups()
        return _scaled(sign, Fraction(1), long or short)
    if match := _NUMBER.fullmatch(text):
        sign, digits, *powers, bottom, percent = match.groups()
        exponent = next((power for power in powers if power), "0")
        return _over(_scaled(sign, Fraction(digits), exponent), bottom or "1", percent)
    match = _FRACTION.fullmatch(text) or _SHORT_FRACTION.fullmatch(text)
    if match is None:
        return None
    sign, top, bottom, percent = match.groups()
    return _over(_scaled(sign, Fraction(top), "0"), bottom, percent)


def _scaled(sign: str, value: Fraction, exponent: str) -> Fraction | None:
    if abs(int(exponent)) > _LARGEST_EXPONENT:
        return None
    return (-value if sign == "-" else value) * Fraction(10) ** int(exponent)


def _over(top: Fraction | None, bottom: str, percent: str | None) -> Fraction | None:
    divisor = Fraction(bottom)
    if top is None or divisor == 0:
        return None
    return top / divisor / (100 if percent else 1)
