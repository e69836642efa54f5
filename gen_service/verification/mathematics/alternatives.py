"""Golds that list several right answers, as data sets write them: `['0.5', '1/2']`. Pure; nothing is evaluated."""

from __future__ import annotations

import re

_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_LIST = re.compile(rf"\s*\[\s*(?:{_QUOTED})(?:\s*,\s*(?:{_QUOTED}))*\s*,?\s*\]\s*", re.DOTALL)
_ITEM = re.compile(_QUOTED, re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def alternatives(gold: str) -> tuple[str, ...]:
    """The answers that a gold lists, any of which is right; the gold itself when it is no list of quoted strings.

    Minerva's and OlympiadBench's golds are such lists, in the notation that Python and JSON share.
    """
    if "[" not in gold[:8] or not _LIST.fullmatch(gold):
        return (gold,)
    items = [item[1:-1] for item in _ITEM.findall(gold)]
    return tuple(_ESCAPE.sub(lambda found: _ESCAPES.get(found[1], found[1]), item).strip() for item in items)
