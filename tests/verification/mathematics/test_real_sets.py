"""Sets of real numbers against membership, number by number."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_service.verification.mathematics.notation import normalised
from gen_service.verification.mathematics.reading import read
from gen_service.verification.mathematics.real_sets import RealSet, is_set, real_set, same_set
from gen_service.verification.mathematics.values import Rationals

Holds: TypeAlias = Callable[[Fraction], bool]
Described: TypeAlias = tuple[str, Holds]

# Every end is a whole number from -4 to 4, so these numbers tell all such sets apart.
GRID = [Fraction(half, 2) for half in range(-11, 12)]
ENDS = st.integers(min_value=-4, max_value=4)
RANDOM = st.fractions(min_value=-6, max_value=6, max_denominator=50)
_COMPARE = {"<": operator.lt, ">": operator.gt, r"\le ": operator.le, r"\ge ": operator.ge, r"\ne ": operator.ne}


def _of(text: str) -> RealSet:
    found = real_set(read(normalised(text)), Rationals())
    assert found is not None, text
    return found


def _within(found: RealSet, value: Fraction) -> bool:
    return any(
        (piece.low < value or (piece.low == value and piece.low_in))
        and (value < piece.high or (value == piece.high and piece.high_in))
        for piece in found.pieces
    )


@st.composite
def intervals(draw: st.DrawFn) -> Described:
    low, high = sorted((draw(ENDS), draw(ENDS)))
    opening, closing = draw(st.sampled_from("([")), draw(st.sampled_from(")]"))
    above = operator.ge if opening == "[" else operator.gt
    below = operator.le if closing == "]" else operator.lt
    kind = draw(st.sampled_from(["bounded", "left", "right", "points"]))
    if kind == "left":
        return rf"(-\infty,{high}{closing}", lambda value: below(value, high)
    if kind == "right":
        return rf"{opening}{low},\infty)", lambda value: above(value, low)
    if kind == "points":
        return rf"\{{{high},{low}\}}", lambda value: value in (low, high)
    return f"{opening}{low},{high}{closing}", lambda value: above(value, low) and below(value, high)


@st.composite
def inequalities(draw: st.DrawFn) -> Described:
    sign, bound, mirrored = draw(st.sampled_from(sorted(_COMPARE))), draw(ENDS), draw(st.booleans())
    compare = _COMPARE[sign]
    if mirrored:
        return f"{bound}{sign}x", lambda value: compare(bound, value)
    if draw(st.booleans()) and sign in ("<", r"\le "):
        return f"-3{sign}x{sign}{bound}", lambda value: compare(-3, value) and compare(value, bound)
    return f"x{sign}{bound}", lambda value: compare(value, bound)


WHOLE: list[Described] = [(r"\mathbb{R}", lambda _: True), (r"\emptyset", lambda _: False)]
PLAIN = st.one_of(intervals(), st.sampled_from(WHOLE))


def _union(one: Holds, other: Holds) -> Holds:
    return lambda value: one(value) or other(value)


def _cut(one: Holds, other: Holds) -> Holds:
    return lambda value: one(value) and other(value)


def _without(one: Holds, other: Holds) -> Holds:
    return lambda value: one(value) and not other(value)


_OPERATIONS = {r"\cup": _union, r"\cap": _cut, r"\setminus": _without}


@st.composite
def expressions(draw: st.DrawFn) -> Described:
    """Sets joined by set operations from the left, or one of them around a join in brackets."""
    text, holds = draw(PLAIN)
    for symbol in draw(st.lists(st.sampled_from(sorted(_OPERATIONS)), min_size=1, max_size=3)):
        other, inside = draw(PLAIN)
        if draw(st.booleans()):
            text, holds = f"{other}{symbol}({text})", _OPERATIONS[symbol](inside, holds)
        else:
            text, holds = f"{text}{symbol}{other}", _OPERATIONS[symbol](holds, inside)
    return text, holds


@st.composite
def conditions(draw: st.DrawFn) -> Described:
    """Inequalities joined by one conjunction."""
    parts = draw(st.lists(inequalities(), min_size=2, max_size=3))
    word, join = draw(st.sampled_from([("or", any), ("and", all)]))
    joiner = draw(st.sampled_from([f" {word} ", rf"\text{{ {word} }}"]))
    return joiner.join(text for text, _ in parts), lambda value: join(holds(value) for _, holds in parts)


SETS = st.one_of(expressions(), conditions(), inequalities(), intervals())


@given(SETS, st.lists(RANDOM, max_size=5))
def test_a_set_holds_the_numbers_that_it_says(described: Described, values: Sequence[Fraction]) -> None:
    text, holds = described
    found = _of(text)
    for value in (*GRID, *values):
        assert _within(found, value) == holds(value), value


@given(SETS)
def test_pieces_are_in_order_and_never_touch(described: Described) -> None:
    pieces = _of(described[0]).pieces
    assert not any(piece.empty for piece in pieces)
    for left, right in pairwise(pieces):
        assert left.high < right.low or (left.high == right.low and not left.high_in and not right.low_in)


@given(SETS, SETS)
def test_two_sets_are_the_same_when_their_members_are(first: Described, second: Described) -> None:
    members = [[holds(value) for value in GRID] for _, holds in (first, second)]
    one, other = _of(first[0]), _of(second[0])
    assert same_set(one, other) == (members[0] == members[1])
    assert same_set(other, one) == same_set(one, other)


@given(expressions())
def test_a_complement_of_a_complement_is_the_set(described: Described) -> None:
    text, holds = described
    outside = _of(rf"\mathbb{{R}}\setminus({text})")
    assert all(_within(outside, value) != holds(value) for value in GRID)
    assert same_set(_of(rf"\mathbb{{R}}\setminus(\mathbb{{R}}\setminus({text}))"), _of(text))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("x>3", r"(3,\infty)", True),
        ("3<x", r"x\in(3,\infty)", True),
        ("x>3", "y>3", False),
        ("x>3", r"x\ge3", False),
        ("0<x<1,x>5", r"(0,1)\cup(5,\infty)", True),  # a list without a common number is one of cases
        ("x>0,x<1", "(0,1)", True),
        (r"\{x|x>3\}", "x>3", True),
        (r"\{x\in\mathbb{Z}|0<x<4\}", r"\{1,2,3\}", True),
        (r"\{x\in\mathbb{Z}|0\le x\le4\}", r"\{1,2,3\}", False),
        (r"\mathbb{R}\setminus\{2\}", r"x\ne2", True),
        ("[1,2]\\cup[2,3]", "[1,3]", True),
        (r"(1,2)\cup(2,3)", "(1,3)", False),
        ("]1,2[", "(1,2)", True),
        (r"\emptyset", r"\{\}", True),
        (r"\emptyset", "no solution", True),
        (r"\mathbb{R}", "all real numbers", True),
        (r"\mathbb{R}", r"(-\infty,\infty)", True),
        (r"\mathbb{R}^+", "x>0", True),
        (r"\mathbb{R}^+", r"x\ge0", False),
    ],
)
def test_sets(first: str, second: str, same: bool) -> None:
    assert same_set(_of(first), _of(second)) is same


@pytest.mark.parametrize(
    "text", ["(1,2]", r"(1,\infty)", "x<1", r"x\in(1,2)", r"(1,2)\cup(3,4)", r"\emptyset", r"\{\}"]
)
def test_can_only_be_a_set(text: str) -> None:
    assert is_set(read(normalised(text)))


@pytest.mark.parametrize("text", ["1", "(1,2)", "[1,2]", "1,2", "x=1", "(1,2,3)", "(x,y)", "yes", r"\{1\}"])
def test_may_be_something_else(text: str) -> None:
    assert not is_set(read(normalised(text)))


@pytest.mark.parametrize("text", ["(2,1)", r"(\sqrt{2},3)", "x+1<2", "(1,2,3)", "x<y", "x<1 or y<1", "5", r"\{x\}"])
def test_is_no_set_that_is_known_without_sympy(text: str) -> None:
    assert real_set(read(normalised(text)), Rationals()) is None
