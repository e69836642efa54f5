"""Several things at once: lists, sets, tuples, vectors, matrices."""

from __future__ import annotations

from collections.abc import Sequence

from gen_service.verification.mathematics.equations import is_equation
from gen_service.verification.mathematics.rational import rational
from gen_service.verification.mathematics.shapes import Group, Matrix, Shape, Value
from gen_service.verification.mathematics.three_valued import Same, all_of, in_any_order, in_order, same_members
from gen_service.verification.mathematics.values import Values

_ORDERED = frozenset(("()", "[]", "<>"))
_HALF_OPEN = frozenset(("(]", "[)"))


def same_groups(gold: Group, answer: Group, same: Same) -> bool | None:
    """Bare lists and sets in any order, a set without its repetitions; all else in order. A bare list may stand for a
    tuple of the same order, never a set for a tuple; two numbers in round and in square brackets are two intervals."""
    kinds = {gold.brackets, answer.brackets}
    if any(isinstance(item, Value) and item.text == r"\ldots" for item in (*gold.items, *answer.items)):
        return in_order(gold.items, answer.items, same)
    if kinds <= {"", "{}"}:
        if _gives_to_names(gold.items) != _gives_to_names(answer.items) and len(gold.items) > 1:
            return in_order(gold.items, answer.items, same)
        return (same_members if "{}" in kinds else in_any_order)(gold.items, answer.items, same)
    if "{}" in kinds or (kinds & _HALF_OPEN and len(kinds) > 1):
        return False
    if kinds == {"()", "[]"} and len(gold.items) == 2 and not _all_groups(gold, answer):
        return False
    return in_order(gold.items, answer.items, same)


def same_as_one(group: Group, value: Value, values: Values, same: Same) -> bool | None:
    """A group beside a single value: a set of one, a number with grouped digits that was a list, or unit vectors."""
    if len(group.items) == 1 and group.brackets in ("{}", "[]", "()"):
        return same(group.items[0], value)
    read = rational(value.text)
    if read is not None and not read.certain and not group.brackets:
        return in_any_order(group.items, [Value(part) for part in value.text.split(",")], same)
    if r"\hat{" in value.text and group.brackets in _ORDERED:
        coefficients = values.vector(value.text)
        if coefficients is None:
            return None
        padded = [*coefficients, *["0"] * 3][: max(len(group.items), 2)]
        return in_order(group.items, [Value(text) for text in padded], same)
    return False


def same_matrix(gold: Shape, answer: Shape, values: Values, same: Same) -> bool | None:
    """Cell by cell. A list of lists is a matrix; a tuple is a column, and beside a row of as many cells that row."""
    first, second = _rows(gold, values), _rows(answer, values)
    if first is None or second is None:
        return None if _is_product(gold) or _is_product(answer) else False
    if not (isinstance(gold, Matrix) and isinstance(answer, Matrix)) and len(first) != len(second):
        return in_order([cell for row in first for cell in row], [cell for row in second for cell in row], same)
    if len(first) != len(second):
        return False
    return all_of(in_order(one, other, same) for one, other in zip(first, second, strict=True))


def _all_groups(*groups: Group) -> bool:
    return all(isinstance(item, Group) for group in groups for item in group.items)


def _gives_to_names(items: Sequence[Shape]) -> bool:
    """Whether the items give values to names that all differ: then a bare list beside them has the names' order."""
    names = [item.sides[0] for item in items if is_equation(item)]
    return len(names) == len(items) > 1 and all(name not in names[:index] for index, name in enumerate(names))


def _is_product(shape: Shape) -> bool:
    return isinstance(shape, Value) and "matrix" in shape.text


def _rows(shape: Shape, values: Values) -> list[tuple[Shape, ...]] | None:
    """A matrix, an expression of matrices, a list of lists, or a vector as rows of one cell."""
    if isinstance(shape, Value) and _is_product(shape):
        cells = values.matrix(shape.text)
        return None if cells is None else [tuple(Value(cell) for cell in row) for row in cells]
    if isinstance(shape, Matrix):
        return list(shape.rows)
    if not isinstance(shape, Group) or shape.brackets not in _ORDERED:
        return None
    if _all_groups(shape):
        return [item.items for item in shape.items if isinstance(item, Group)]
    return [(item,) for item in shape.items]
