"""What is refused before sympy sees it: text whose value or parse tree would not fit in any budget. Pure and linear.

The process budgets of `workers` hold whatever passes here; the guard turns the known ways to exhaust them into an
answer in microseconds, and names the cause.
"""

from __future__ import annotations

import re

LONGEST = 2_000
LONGEST_NUMBER = 400
DEEPEST = 24
DEEPEST_EXPONENT = 2
LARGEST_EXPONENT = 20_000
LARGEST_FACTORIAL = 3_000
LARGEST_BINOMIAL = 100_000
MOST_NUMBERS = 400
MOST_CELLS = 120

_NUMBERS = re.compile(r"[0-9]+")
_SPACES = re.compile(r"\s+|\\[,;:! ]")
_IDLE_SPACE = re.compile(r"(?<![0-9]) | (?![0-9])")
# The patterns below see text without spaces and have no two adjacent repeats, so each is linear.
_POWER_TOKEN = re.compile(r"\^|\*\*|[{}]|\\[a-zA-Z]+|[0-9]+|[^\s]")
_EXPONENT = re.compile(r"(?:\^|\*\*)[{(]?-?([0-9]+)(?:(?:\^|\*\*)\{?([0-9]+))?")
_FACTORIAL = re.compile(r"(?<![0-9])([0-9]+)[)}\]]{0,40}!")
_POWER_FACTORIAL = re.compile(r"(?:\^|\*\*)\{?[0-9]{1,40}[)}\]]{1,40}!|![)}\]]{1,40}!")
_BINOMIAL = re.compile(r"\\[dt]?binom\{([^{}]*(?:\{[^{}]*\}[^{}]*)?)\}")


def refusal(text: str) -> str | None:
    """Why this text is refused, or None when sympy may see it."""
    if len(text) > LONGEST:
        return f"{len(text)} characters (limit {LONGEST})"
    if "\0" in text:
        return "a NUL character"
    if (depth := _depth(text)) > DEEPEST:
        return f"nested {depth} deep (limit {DEEPEST})"
    numbers = _NUMBERS.findall(text)
    if len(numbers) > MOST_NUMBERS:
        return f"more than {MOST_NUMBERS} numbers"
    if numbers and max(map(len, numbers)) > LONGEST_NUMBER:
        return f"a number of more than {LONGEST_NUMBER} digits"
    if text.count("&") > MOST_CELLS:
        return f"a matrix of more than {MOST_CELLS} cells"
    return _explosive(_IDLE_SPACE.sub("", _SPACES.sub(" ", text)))


def _explosive(text: str) -> str | None:
    if _exponent_depth(text) > DEEPEST_EXPONENT:
        return "a tower of exponents"
    for exponent, power in _EXPONENT.findall(text):
        if _above(exponent, LARGEST_EXPONENT):
            return f"an exponent or upper bound of more than {LARGEST_EXPONENT}"
        if power and int(exponent) > 1 and _above(power, 4):
            return "a tower of exponents"
    if any(_above(number, LARGEST_FACTORIAL) for number in _FACTORIAL.findall(text)):
        return f"a factorial of more than {LARGEST_FACTORIAL}"
    if _POWER_FACTORIAL.search(text) or "!!!" in text:
        return "a factorial of a power or of a factorial"
    for top in _BINOMIAL.findall(text):
        if "^" in top or any(_above(number, LARGEST_BINOMIAL) for number in _NUMBERS.findall(top)):
            return f"a binomial of more than {LARGEST_BINOMIAL}"
    return None


def _exponent_depth(text: str) -> int:
    """How deep exponents stand in exponents: 1 in `x^2`, 2 in `e^{x^2}` and in `2^2^2`."""
    deepest = chain = 0
    expects = is_exponent = False  # an exponent comes next; what came last was one
    groups: list[tuple[int, int]] = []  # of each open brace: exponents around it, and the chain that it is a link of
    depth = 0
    for match in _POWER_TOKEN.finditer(text):
        token = match.group()
        if token in ("^", "**"):
            chain = chain + 1 if is_exponent else 1
            deepest = max(deepest, depth + chain)
            expects, is_exponent = True, False
            continue
        if token == "{":
            groups.append((depth, chain if expects else 0))
            depth += chain if expects else 0
            is_exponent = False
        elif token == "}" and groups:
            depth, chain = groups.pop()
            is_exponent = chain > 0
        else:
            is_exponent = expects
        expects = False
    return deepest


def _above(digits: str, limit: int) -> bool:
    digits = digits.lstrip("0")
    return len(digits) > 12 or int(digits or "0") > limit


def _depth(text: str) -> int:
    deepest = depth = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest
