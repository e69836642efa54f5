"""Yes, no, and None for "not known here"."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from gen_service.verification.mathematics.shapes import Shape

Same: TypeAlias = Callable[[Shape, Shape], bool | None]


def all_of(verdicts: Iterable[bool | None]) -> bool | None:
    """False when any is; else None when any is unknown."""
    unknown = False
    for verdict in verdicts:
        if verdict is False:
            return False
        unknown = unknown or verdict is None
    return None if unknown else True


def any_of(verdicts: Iterable[bool | None]) -> bool | None:
    """True when any is; else None when any is unknown."""
    unknown = False
    for verdict in verdicts:
        if verdict:
            return True
        unknown = unknown or verdict is None
    return None if unknown else False


def in_order(first: Sequence[Shape], second: Sequence[Shape], same: Same) -> bool | None:
    """Whether both are as long, and each of the first is the same as the one in its place of the second."""
    if len(first) != len(second):
        return False
    return all_of(same(one, other) for one, other in zip(first, second, strict=True))


def same_members(first: Sequence[Shape], second: Sequence[Shape], same: Same) -> bool | None:
    """Whether each of the first is one of the second, and the other way round."""
    there = all_of(any_of(same(one, other) for other in second) for one in first)
    return all_of((there, all_of(any_of(same(one, other) for one in first) for other in second)))


def in_any_order(first: Sequence[Shape], second: Sequence[Shape], same: Same) -> bool | None:
    """Whether both are as long, and each of the first is the same as another of the second."""
    if len(first) != len(second):
        return False
    left = list(second)
    unknown = False
    for one in first:
        verdicts = [same(one, other) for other in left]
        if True in verdicts:
            del left[verdicts.index(True)]
        elif None in verdicts:
            unknown = True
        else:
            return False
    return None if unknown else True
