"""Splitting LaTeX outside all brackets. Pure and linear."""

from __future__ import annotations

import re

TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL)
OPENING = frozenset(("(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil", r"\begin"))
CLOSING = frozenset((")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil", r"\end"))


def split(text: str, separators: frozenset[str]) -> tuple[list[str], list[str]]:
    """The parts of a text between separators outside all brackets, and the separators."""
    parts: list[str] = []
    found: list[str] = []
    start = depth = 0
    for match in TOKEN.finditer(text):
        token = match.group()
        if depth == 0 and token in separators:
            parts.append(text[start : match.start()])
            found.append(token)
            start = match.end()
        elif token in OPENING:
            depth += 1
        elif token in CLOSING and depth:
            depth -= 1
    return [*parts, text[start:]], found


def balanced(text: str) -> bool:
    """Whether every bracket is closed, and none that was not opened."""
    depth = 0
    for match in TOKEN.finditer(text):
        token = match.group()
        depth += (token in OPENING) - (token in CLOSING)
        if depth < 0:
            return False
    return depth == 0
