"""Options of a kind of problem, checked at the door."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from gen_service.errors import SpecError

FIELD = "verification.options"


def refuse_unknown(kind: str, given: Mapping[str, object], known: tuple[str, ...]) -> None:
    """Raises SpecError when an option is none of the kind's."""
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            listed = ", ".join(known) if known else "none"
            raise SpecError(FIELD, name, f"an option of the kind {kind!r}; {hint}it has: {listed}")


def flag(given: Mapping[str, object], name: str, default: bool) -> bool:
    """A true or false option."""
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise SpecError(f"{FIELD}.{name}", value, "true or false")
    return value


def tolerance(given: Mapping[str, object], name: str, default: float) -> float:
    """A finite number that is not negative."""
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise SpecError(f"{FIELD}.{name}", value, "a number of at least 0")
    return float(value)


def letters(given: Mapping[str, object], name: str, default: str) -> str:
    """Two or more different letters, upper-cased."""
    value = given.get(name, default)
    if not isinstance(value, str) or not (value.isascii() and value.isalpha() and len(value) > 1):
        raise SpecError(f"{FIELD}.{name}", value, "the letters of the choices as one text, such as 'ABCD'")
    if len(set(value.upper())) != len(value):
        raise SpecError(f"{FIELD}.{name}", value, "each letter once")
    return value.upper()
