"""Answers with a letter that runs through a domain: `k\\pi, k \\in \\mathbb{Z}`."""

from __future__ import annotations

from collections.abc import Callable

from gen_service.verification.mathematics.brackets import TOKEN
from gen_service.verification.mathematics.shapes import Family, Group, Relation, Shape, Value
from gen_service.verification.mathematics.three_valued import Same, any_of

# Counting the integers backwards or from elsewhere gives the same family.
_COUNTED = ("{}", "(-{})", "({}+1)", "({}-1)")


def same_family(gold: Shape, answer: Shape, same: Same) -> bool | None:
    """The same answer for each value of the letter, whatever that is called. Beside an answer without a domain, the
    letter must be the same."""
    if not (isinstance(gold, Family) and isinstance(answer, Family)):
        members = [one.member if isinstance(one, Family) else one for one in (gold, answer)]
        return same(members[0], members[1])
    if gold.domain != answer.domain:
        return False
    ways = _COUNTED if gold.domain == r"\mathbb{Z}" else _COUNTED[:1]
    renamed = [_renamed(answer.member, answer.letter, gold.letter, way) for way in ways]
    return any_of(None if one is None else same(gold.member, one) for one in renamed)


def _renamed(shape: Shape, letter: str, other: str, way: str) -> Shape | None:
    """The shape with the other letter, counted in this way; None where that letter is in it already."""
    if other != letter and other in _letters(shape):
        return None
    counted = way.format(other)
    return _mapped(shape, lambda text: TOKEN.sub(lambda found: counted if found[0] == letter else found[0], text))


def _letters(shape: Shape) -> set[str]:
    found: set[str] = set()

    def collect(text: str) -> str:
        found.update(TOKEN.findall(text))
        return text

    _mapped(shape, collect)
    return found


def _mapped(shape: Shape, change: Callable[[str], str]) -> Shape:
    match shape:
        case Value():
            return Value(change(shape.text))
        case Group():
            return Group(tuple(_mapped(item, change) for item in shape.items), shape.brackets)
        case Relation():
            return Relation(tuple(_mapped(side, change) for side in shape.sides), shape.operators)
        case _:
            return shape
