"""Sets of real numbers, however they were written: intervals, unions, inequalities, points. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from gen_service.verification.mathematics.shapes import (
    MIRRORED,
    Group,
    Relation,
    SetOperation,
    Shape,
    Value,
    Words,
    is_inequality,
)
from gen_service.verification.mathematics.values import Number, Values

EMPTY = frozenset((r"\emptyset",))
WHOLE = frozenset((r"\mathbb{R}", r"\mathbf{R}"))
EMPTY_WORDS = frozenset(
    ("no solution", "no solutions", "no real solution", "no real solutions", "empty set", "none", "no real roots")
)
WHOLE_WORDS = frozenset(
    ("all real numbers", "all reals", "all real", "real numbers", "reals", "set of all real numbers")
)
_HALVES: dict[str, tuple[Number, bool, Number, bool]] = {
    r"\mathbb{R}^+": (Fraction(0), False, math.inf, False),
    r"\mathbb{R}_+": (Fraction(0), False, math.inf, False),
    r"\mathbb{R}^-": (-math.inf, False, Fraction(0), False),
}
_LETTER = re.compile(
    r"[a-zA-Z](?:_(?:\{[^{}]*\}|[0-9a-zA-Z]))?|\\(?:alpha|beta|gamma|theta|lambda|mu|phi|omega|epsilon)"
)
_LETTERS = re.compile(r"\\[a-zA-Z]+|[a-zA-Z]")
_WHOLE_NUMBERS = frozenset((r"\mathbb{Z}", r"\mathbb{N}"))
_MOST_POINTS = 1_000
_CLOSE = Fraction(1, 10**30)


@dataclass(frozen=True, slots=True)
class Piece:
    """A point, or an interval of the line."""

    low: Number
    low_in: bool
    high: Number
    high_in: bool

    @property
    def empty(self) -> bool:
        """Whether nothing is in it."""
        return self.low > self.high or (self.low == self.high and not (self.low_in and self.high_in))


@dataclass(frozen=True, slots=True)
class RealSet:
    """Disjoint pieces from left to right, none of which touch; and the letter that was said to be in it, or ""."""

    pieces: tuple[Piece, ...]
    letter: str = ""


LINE = Piece(-math.inf, False, math.inf, False)


def is_set(shape: Shape) -> bool:
    """Whether a shape can only be a set of numbers: then a pair of numbers beside it is an interval."""
    match shape:
        case SetOperation():
            return True
        case Relation():
            return is_inequality(shape) or r"\in" in shape.operators
        case Value():
            return shape.text in WHOLE or shape.text in EMPTY or shape.text in _HALVES
        case Group():
            if shape.brackets in ("(]", "[)") or (shape.brackets == "{}" and not shape.items):
                return True
            infinite = any(isinstance(item, Value) and item.text.lstrip("+-") == r"\infty" for item in shape.items)
            return (shape.brackets in ("()", "[]") and infinite) or (
                not shape.brackets and bool(shape.items) and all(is_inequality(item) for item in shape.items)
            )
        case _:
            return False


def real_set(shape: Shape, values: Values) -> RealSet | None:
    """The set that a shape is, or None when it is none, or its ends are not known as numbers here."""
    match shape:
        case Words():
            if shape.text in EMPTY_WORDS:
                return RealSet(())
            return RealSet((LINE,)) if shape.text in WHOLE_WORDS else None
        case Value():
            return _named(shape.text)
        case Group():
            return _group(shape, values)
        case Relation():
            return _relation(shape, values)
        case SetOperation():
            return _operation(shape, values)
        case _:
            return None


def same_set(first: RealSet, second: RealSet) -> bool:
    """Whether two sets hold the same numbers; and say so of the same letter, where both name one."""
    if first.letter and second.letter and first.letter != second.letter:
        return False
    return len(first.pieces) == len(second.pieces) and all(
        _near(one.low, other.low)
        and _near(one.high, other.high)
        and (one.low_in, one.high_in) == (other.low_in, other.high_in)
        for one, other in zip(first.pieces, second.pieces, strict=True)
    )


def _near(first: Number, second: Number) -> bool:
    if first == second:
        return True
    if not (isinstance(first, Fraction) and isinstance(second, Fraction)):
        return False
    return abs(first - second) <= _CLOSE * max(abs(first), abs(second))


def _named(text: str) -> RealSet | None:
    if text in EMPTY:
        return RealSet(())
    if text in WHOLE:
        return RealSet((LINE,))
    return RealSet((Piece(*_HALVES[text]),)) if text in _HALVES else None


def _group(group: Group, values: Values) -> RealSet | None:
    if group.brackets == "{}":
        numbers = [values.number(item.text) if isinstance(item, Value) else None for item in group.items]
        points = [number for number in numbers if number is not None]
        return _united(Piece(point, True, point, True) for point in points) if len(points) == len(numbers) else None
    if not group.brackets:
        both = _operation(SetOperation(r"\cap", group.items), values)
        return both if both is None or both.pieces else _operation(SetOperation(r"\cup", group.items), values)
    if len(group.items) != 2 or group.brackets[0] not in "([" or group.brackets[1] not in ")]":
        return None
    low, high = [values.number(item.text) if isinstance(item, Value) else None for item in group.items]
    if low is None or high is None or low > high:
        return None
    piece = Piece(low, group.brackets[0] == "[", high, group.brackets[1] == "]")
    return RealSet(()) if piece.empty else RealSet((piece,))


def _relation(relation: Relation, values: Values) -> RealSet | None:
    if relation.operators in ((r"\in",), ("=",)):
        left, right = relation.sides
        if not (isinstance(left, Value) and _LETTER.fullmatch(left.text)):
            return None
        if relation.operators == ("=",) and isinstance(right, Value):
            right = Group((right,), "{}")
        inside = real_set(right, values)
        return RealSet(inside.pieces, left.text) if inside else None
    found = RealSet((LINE,))
    for left, operator, right in zip(relation.sides, relation.operators, relation.sides[1:], strict=False):
        if operator not in MIRRORED or not isinstance(left, Value) or not isinstance(right, Value):
            return None
        part = _inequality(left.text, operator, right.text, values)
        if part is None or (found.letter and part.letter != found.letter):
            return None
        found = RealSet(_cut(found.pieces, part.pieces), part.letter)
    return found


def _inequality(left: str, operator: str, right: str, values: Values) -> RealSet | None:
    if _LETTER.fullmatch(right) and values.number(left) is not None:
        left, operator, right = right, MIRRORED[operator], left
    bound = values.number(right)
    if _LETTER.fullmatch(left) and bound is not None:
        return RealSet(_half(operator, bound), left)
    solved = values.solutions(left, operator, right)
    letters = {name for name in _LETTERS.findall(left + " " + right) if _LETTER.fullmatch(name) and name != "e"}
    if solved is None or len(letters) != 1:
        return None
    united = _united(Piece(*piece) for piece in solved)
    return RealSet(united.pieces, letters.pop())


def _half(operator: str, bound: Number) -> tuple[Piece, ...]:
    below = Piece(-math.inf, False, bound, operator == r"\le")
    above = Piece(bound, operator == r"\ge", math.inf, False)
    pieces = {"<": (below,), r"\le": (below,), ">": (above,), r"\ge": (above,), r"\ne": (below, above)}[operator]
    return tuple(piece for piece in pieces if not piece.empty)


def _operation(operation: SetOperation, values: Values) -> RealSet | None:
    whole_numbers = [part for part in operation.parts if isinstance(part, Value) and part.text in _WHOLE_NUMBERS]
    if whole_numbers and operation.operator == r"\cap":
        rest = tuple(part for part in operation.parts if part not in whole_numbers)
        inside = _operation(SetOperation(r"\cap", rest), values) if rest else None
        return _whole_numbers_in(inside) if inside else None
    sets = [real_set(_as_points(part), values) for part in operation.parts]
    known = [one for one in sets if one is not None]
    letters = {one.letter for one in known if one.letter}
    if len(known) < len(sets) or len(letters) > 1:
        return None
    letter = letters.pop() if letters else ""
    pieces = known[0].pieces
    for other in known[1:]:
        if operation.operator == r"\cup":
            pieces = _united([*pieces, *other.pieces]).pieces
        else:
            outside = other.pieces if operation.operator == r"\cap" else _outside(other.pieces)
            pieces = _cut(pieces, outside)
    return RealSet(pieces, letter)


def _whole_numbers_in(inside: RealSet) -> RealSet | None:
    """The integers of a bounded set, at most a thousand of them, as points."""
    points: list[Piece] = []
    for piece in inside.pieces:
        if not (isinstance(piece.low, Fraction) and isinstance(piece.high, Fraction)):
            return None
        low = math.ceil(piece.low) + (not piece.low_in and piece.low.denominator == 1)
        high = math.floor(piece.high) - (not piece.high_in and piece.high.denominator == 1)
        if high - low > _MOST_POINTS:
            return None
        points.extend(Piece(point, True, point, True) for point in map(Fraction, range(low, high + 1)))
    return RealSet(tuple(points), inside.letter)


def _as_points(shape: Shape) -> Shape:
    """In a union of conditions a lone number is a point."""
    return Group((shape,), "{}") if isinstance(shape, Value) and _named(shape.text) is None else shape


def _cut(first: tuple[Piece, ...], second: tuple[Piece, ...]) -> tuple[Piece, ...]:
    found: list[Piece] = []
    for one in first:
        for other in second:
            low, low_in = max((one.low, not one.low_in), (other.low, not other.low_in))
            high, high_in = min((one.high, one.high_in), (other.high, other.high_in))
            piece = Piece(low, not low_in, high, high_in)
            if not piece.empty:
                found.append(piece)
    return _united(found).pieces


def _outside(pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    found: list[Piece] = []
    low: Number = -math.inf
    low_in = False
    for piece in pieces:
        found.append(Piece(low, low_in, piece.low, not piece.low_in))
        low, low_in = piece.high, not piece.high_in
    found.append(Piece(low, low_in, math.inf, False))
    return tuple(piece for piece in found if not piece.empty and piece.low != math.inf and piece.high != -math.inf)


def _united(pieces: Iterable[Piece]) -> RealSet:
    """The pieces in order, those that touch or overlap made one."""
    found: list[Piece] = []
    for piece in sorted((piece for piece in pieces if not piece.empty), key=lambda one: (one.low, not one.low_in)):
        last = found[-1] if found else None
        if last and (piece.low < last.high or (piece.low == last.high and (piece.low_in or last.high_in))):
            high, high_in = max((last.high, last.high_in), (piece.high, piece.high_in))
            found[-1] = Piece(last.low, last.low_in, high, high_in)
        else:
            found.append(piece)
    return RealSet(tuple(found))
