"""LaTeX to sympy and comparison, by math-verify. Importing this costs seconds and 80 MB: only workers do.

math-verify's own time limits use SIGALRM and are off: the process that runs this has a budget.
Source of the grammar and of the comparison: math-verify 0.9 (Hugging Face), latex2sympy2_extended 1.11.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Literal, NoReturn, TypeAlias

import sympy
import sympy.physics.units  # `simplify` imports it late, and its own tables need the parser that is replaced below
from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, normalize_latex
from math_verify.grader import verify as math_verify_equal
from math_verify.parser import parse_latex_cached
from sympy.parsing import sympy_parser

from gen_service.verification.rational import normalised

Parsed: TypeAlias = "sympy.Basic | sympy.MatrixBase"

_NORMALISATION = NormalizationConfig(
    basic_latex=True, units=True, malformed_operators=True, nits=True, boxed="none", equations=False
)
_DIGITS = 40
_AGREEMENT = sympy.Rational(1, 10**30)
_IMAGINARY = frozenset({"i"})
_INTEGER = re.compile(r"[0-9]+")
_DECIMAL = re.compile(r"[0-9]+\.[0-9]*|\.[0-9]+")


class EvaluationRefused(Exception):
    """sympy was about to evaluate a string as Python code."""


def literal(text: str, *_: object, **__: object) -> sympy.Number:
    """Reads a number as sympy's `parse_expr` would, and refuses any other text, which `parse_expr` would evaluate."""
    if _INTEGER.fullmatch(text):
        return sympy.Integer(int(text))
    if _DECIMAL.fullmatch(text):
        return sympy.Float(text)
    raise EvaluationRefused(f"not a number: {text[:40]!r}")


def _refuse(*_: object, **__: object) -> NoReturn:
    raise EvaluationRefused("text is never evaluated")


# Holds wherever this module is imported: no string that reaches sympy becomes code. (latex2sympy2 hands each of its
# number tokens to sympify, which would tokenise and evaluate it.)
sympy_parser.parse_expr = literal
sympy_parser.eval_expr = _refuse
logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time limits are off


@lru_cache(maxsize=256)
def parsed(text: str) -> Parsed | None:
    """The sympy object that a LaTeX answer means, or None when the grammar does not take all of it."""
    try:
        found = parse_latex_cached(normalize_latex(normalised(text), config=_NORMALISATION))
    except MemoryError:
        raise
    except Exception:  # the grammar raises bare Exception for every syntax error
        return None
    return found if isinstance(found, sympy.Basic | sympy.MatrixBase) else None


def equal(gold: Parsed, answer: Parsed) -> bool:
    """Whether two parsed answers mean the same. Gold first: an assignment on one side is read by the gold's form."""
    exact = _equal_constants(gold, answer)
    if exact is not None:
        return exact
    return bool(math_verify_equal(gold, answer, timeout_seconds=None, allow_set_relation_comp=True))


def _equal_constants(gold: Parsed, answer: Parsed) -> bool | None:
    """Exact or 30 digits deep for two constants without decimals, where a fixed number of decimals would call 2^-99
    and 2^-98 equal. None when they are something else."""
    first, second = _constant(gold), _constant(answer)
    if first is None or second is None:
        return None
    if first.is_Rational and second.is_Rational:
        return bool(first == second)
    left, right = first.evalf(_DIGITS), second.evalf(_DIGITS)
    if not (left.is_finite and right.is_finite and left.is_number and right.is_number):
        return None
    return bool(abs(left - right) <= _AGREEMENT * max(abs(left), abs(right)))


def _constant(value: Parsed) -> sympy.Expr | None:
    if not isinstance(value, sympy.Expr) or value.has(sympy.Float) or _holds_percent(value):
        return None
    names = {symbol.name for symbol in value.free_symbols}
    if names and names != _IMAGINARY:
        return None
    if names:
        value = value.subs(dict.fromkeys(value.free_symbols, sympy.I))
    done = value.doit()
    return done if done.is_number else None


def _holds_percent(value: sympy.Expr) -> bool:
    return bool(value.has(sympy.UnevaluatedExpr))


def compared(gold: str, answer: str) -> Literal["equal", "different", "bad gold", "bad answer"]:
    """Parses both and compares; a gold that does not parse or does not equal itself is bad."""
    expected = parsed(gold)
    if expected is None or not _equals_itself(gold):
        return "bad gold"
    found = parsed(answer)
    if found is None:
        return "bad answer"
    return "equal" if equal(expected, found) else "different"


@lru_cache(maxsize=256)
def _equals_itself(gold: str) -> bool:
    value = parsed(gold)
    return value is not None and equal(value, value)
