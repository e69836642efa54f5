"""What is refused before sympy sees it: text whose value or parse tree would not fit in any budget. Pure and linear.

The process budgets of `workers` hold whatever passes here; the guard turns the known ways to exhaust them into an
answer in microseconds, and names the cause.
"""

from __future__ import annotations

import re

LONGEST = 2_000
LONGEST_NUMBER = 400
DEEPEST = 40
LARGEST_EXPONENT = 20_000
LARGEST_FACTORIAL = 3_000
LARGEST_BINOMIAL = 100_000
MOST_NUMBERS = 400
MOST_CELLS = 120

_LONG_NUMBER = re.compile(rf"[0-9]{{{LONGEST_NUMBER + 1}}}")
_NUMBERS = re.compile(r"[0-9]+")
_TOWER = re.compile(r"\^\s*\{?[^{}^]{0,40}\^\s*\{?[^{}^]{0,40}\^")
_EXPONENT = re.compile(r"(?:\^|\*\*)\s*(?:\{|\()?\s*-?\s*([0-9][0-9,]*)(?:\s*(?:\^|\*\*)\s*\{?\s*([0-9]+))?")
_FACTORIAL = re.compile(r"([0-9]+)[\s)}\]]*!")
_POWER_FACTORIAL = re.compile(r"(?:\^|\*\*)\s*\{?\s*[0-9]+\s*[)}\]]+\s*!")
_DOUBLE_FACTORIAL = re.compile(r"!\s*[)}\]]+\s*!")
_BINOMIAL = re.compile(r"\\[dt]?binom\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)?)\}")


def refusal(text: str) -> str | None:
    """Why this text is refused, or None when sympy may see it."""
    if len(text) > LONGEST:
        return f"{len(text)} characters (limit {LONGEST})"
    if "\0" in text:
        return "a NUL character"
    if _LONG_NUMBER.search(text):
        return f"a number of more than {LONGEST_NUMBER} digits"
    if (depth := _depth(text)) > DEEPEST:
        return f"nested {depth} deep (limit {DEEPEST})"
    if len(_NUMBERS.findall(text)) > MOST_NUMBERS:
        return f"more than {MOST_NUMBERS} numbers"
    if text.count("&") > MOST_CELLS:
        return f"a matrix of more than {MOST_CELLS} cells"
    return _explosive(text)


def _explosive(text: str) -> str | None:
    if _TOWER.search(text):
        return "a tower of exponents"
    for base, power in _EXPONENT.findall(text):
        if int(base.replace(",", "")) > LARGEST_EXPONENT:
            return f"an exponent or upper bound of more than {LARGEST_EXPONENT}"
        if power and int(base.replace(",", "")) > 1 and int(power) > 4:
            return "a tower of exponents"
    for number in _FACTORIAL.findall(text):
        if int(number) > LARGEST_FACTORIAL:
            return f"a factorial of more than {LARGEST_FACTORIAL}"
    if _POWER_FACTORIAL.search(text) or _DOUBLE_FACTORIAL.search(text) or "!!!" in text:
        return "a factorial of a power or of a factorial"
    for top in _BINOMIAL.findall(text):
        if "^" in top or any(int(number) > LARGEST_BINOMIAL for number in _NUMBERS.findall(top)):
            return f"a binomial of more than {LARGEST_BINOMIAL}"
    return None


def _depth(text: str) -> int:
    deepest = depth = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest
