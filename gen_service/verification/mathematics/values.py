"""What is known of the values in an answer. Three answers to each question: yes, no, and None for "not known here"."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Protocol

from gen_service.verification.mathematics.rational import rational, same_number

Number = Fraction | float  # a float only for the two infinities
_INFINITIES = {r"\infty": math.inf, r"+\infty": math.inf, r"-\infty": -math.inf}


class Values(Protocol):
    """Knowledge of expressions, each a `normalised` text."""

    complete: bool  # nobody knows more: what is unknown here stays so

    def same(self, first: str, second: str) -> bool | None:
        """Whether two expressions are equal wherever both are defined."""
        ...

    def number(self, text: str) -> Number | None:
        """The real constant that an expression is, exact or to 40 digits; an infinity; None when it is neither."""
        ...

    def same_equation(self, first: tuple[str, str], second: tuple[str, str]) -> bool | None:
        """Whether two equations, each a left and a right side, hold for the same values of their letters."""
        ...

    def same_inequality(self, first: tuple[str, str], second: tuple[str, str]) -> bool | None:
        """Whether `left > right` says the same for both."""
        ...

    def solutions(self, left: str, operator: str, right: str) -> list[tuple[Number, bool, Number, bool]] | None:
        """Where an inequality in one letter holds: pieces of the line as (low, low included, high, high included)."""
        ...

    def matrix(self, text: str) -> list[list[str]] | None:
        """The cells of an expression with matrices in it, row by row."""
        ...

    def vector(self, text: str) -> list[str] | None:
        """The coefficients of an expression in the unit vectors i, j, k."""
        ...


class Rationals:
    """What arithmetic of written rational numbers knows. Needs no sympy; microseconds a question."""

    complete = False

    def same(self, first: str, second: str) -> bool | None:
        """See `Values`."""
        if first == second:
            return True
        one, other = rational(first), rational(second)
        if one is None or other is None:
            if first in _INFINITIES or second in _INFINITIES:
                return _different_infinities(first, second, one is not None or other is not None)
            return None
        if same_number(one, other):
            return True
        # `100,200` may also be a list.
        return not (one.certain or other.certain) and sorted(first.split(",")) == sorted(second.split(","))

    def number(self, text: str) -> Number | None:
        """See `Values`."""
        if text in _INFINITIES:
            return _INFINITIES[text]
        read = rational(text)
        return read.value if read else None

    def same_equation(self, first: tuple[str, str], second: tuple[str, str]) -> bool | None:
        """See `Values`."""
        return True if first in (second, second[::-1]) else None

    def same_inequality(self, first: tuple[str, str], second: tuple[str, str]) -> bool | None:
        """See `Values`."""
        return True if first == second else None

    def solutions(self, left: str, operator: str, right: str) -> list[tuple[Number, bool, Number, bool]] | None:
        """See `Values`."""
        return None

    def matrix(self, text: str) -> list[list[str]] | None:
        """See `Values`."""
        return None

    def vector(self, text: str) -> list[str] | None:
        """See `Values`."""
        return None


def _different_infinities(first: str, second: str, other_is_number: bool) -> bool | None:
    if first in _INFINITIES and second in _INFINITIES:
        return _INFINITIES[first] == _INFINITIES[second]
    return False if other_is_number else None
