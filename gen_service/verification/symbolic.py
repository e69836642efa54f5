"""LaTeX to sympy and comparison, by math-verify. Importing this costs seconds and 80 MB: only workers do.

math-verify's own time limits use SIGALRM and are off: the process that runs this has a budget.
Source of the grammar and of the comparison: math-verify 0.9 (Hugging Face), latex2sympy2_extended 1.11.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal, NoReturn, TypeAlias

import sympy
import sympy.physics.units  # `simplify` imports it late, and its own tables need the parser that is replaced below
from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, normalize_latex
from math_verify.grader import verify as math_verify_equal
from math_verify.parser import parse_latex_cached
from sympy.parsing import sympy_parser

from gen_service.verification.rational import normalised

Comparison = Literal["equal", "different", "bad gold", "bad answer"]
Parsed: TypeAlias = "sympy.Basic | sympy.MatrixBase"

_NORMALISATION = NormalizationConfig(
    basic_latex=True, units=True, malformed_operators=True, nits=True, boxed="none", equations=False
)
logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time limits are off
_DIGITS = 40
_AGREEMENT = sympy.Rational(1, 10**30)
_IMAGINARY = frozenset({"i"})
_RATIONAL = re.compile(r"-?[0-9]+(?:/[1-9][0-9]*)?")
_DECIMAL = re.compile(r"[0-9]+\.[0-9]*|\.[0-9]+")
_USUAL = (
    (r"\frac{\sqrt{3}}{2}-1", r"\sqrt{\frac{3}{4}}-1"),
    (r"(1,2)\cup[3,\infty)", r"[3,\infty)\cup(1,2)"),
    (r"\{1,2,3\}", "3,2,1"),
    ("x^2+2x+1", "(x+1)^2"),
    (r"1\le x<3", r"x\in[1,3)"),
    ("y=2x+3", "y-3=2x"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&5\end{pmatrix}"),
    (r"\sin^2 x", r"1-\cos^2 x"),
    (r"2^{n+1}-\log_2 8", r"2\cdot2^n-3"),
)


class EvaluationRefused(Exception):
    """sympy was about to evaluate a string as Python code."""


def literal(text: str, *_: object, **__: object) -> sympy.Number:
    """Reads a number as sympy's `parse_expr` would, and refuses any other text, which `parse_expr` would evaluate."""
    if _RATIONAL.fullmatch(text):
        return sympy.Rational(*map(int, text.split("/")))
    if _DECIMAL.fullmatch(text):
        return sympy.Float(text)
    raise EvaluationRefused(f"not a number: {text[:40]!r}")


def _refuse(*_: object, **__: object) -> NoReturn:
    raise EvaluationRefused("text is never evaluated")


@contextmanager
def no_evaluation() -> Iterator[None]:
    """Within it no string that reaches sympy in this process becomes code.

    latex2sympy2 hands each of its number tokens to sympify, which would tokenise and `eval` it.
    """
    kept = sympy_parser.parse_expr, sympy_parser.eval_expr
    sympy_parser.parse_expr, sympy_parser.eval_expr = literal, _refuse
    try:
        yield
    finally:
        sympy_parser.parse_expr, sympy_parser.eval_expr = kept


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
    if math_verify_equal(gold, answer, timeout_seconds=None, allow_set_relation_comp=True):
        return True
    return _equal_to_symbol(gold, answer)


def _equal_to_symbol(gold: Parsed, answer: Parsed) -> bool:
    """Whether an expression simplifies to a lone symbol, which math-verify compares by its printed form only."""
    if isinstance(gold, sympy.Symbol) == isinstance(answer, sympy.Symbol):
        return False
    if not (isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr)):
        return False
    return bool(sympy.simplify(gold - answer).is_zero)


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


def compared(gold: str, answer: str) -> Comparison:
    """Parses both and compares. A side is bad that does not parse or breaks sympy; so is a gold unlike itself."""
    with no_evaluation():
        return _compared(gold, answer)


def _compared(gold: str, answer: str) -> Comparison:
    try:
        expected = parsed(gold)
        if expected is None or not _equals_itself(gold):
            return "bad gold"
    except MemoryError:
        raise
    except Exception:  # sympy raises anything
        return "bad gold"
    try:
        found = parsed(answer)
        if found is None:
            return "bad answer"
        return "equal" if equal(expected, found) else "different"
    except MemoryError:
        raise
    except Exception:
        return "bad answer"


def warm() -> None:
    """Compares one answer of each usual kind, so that what parser and sympy build on first use is there to fork."""
    for gold, answer in _USUAL:
        compared(gold, answer)


@lru_cache(maxsize=256)
def _equals_itself(gold: str) -> bool:
    value = parsed(gold)
    return value is not None and equal(value, value)
