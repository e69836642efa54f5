"""Formulas, numbers and sentences in running text: where they begin and end. Pure; each is linear in what it reads."""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

# One answer's text is never longer; a grader refuses what is.
LONGEST = 2_000

_WHOLE = r"(?:[0-9]{1,3}(?:(?:,|\{,\}|\\,)[0-9]{3}){1,130}(?![0-9])|[0-9]{1,400})"
NUMBER = rf"{_WHOLE}(?:\.[0-9]{{1,400}})?(?:/[0-9]{{1,400}}(?![0-9]))?"
_LAST_NUMBER = re.compile(
    r"(?:(?<![\w)\]}])[-+\u2212])?"
    rf"(?:\\[dtc]?frac\{{{NUMBER}\}}\{{{NUMBER}\}}|{NUMBER}(?:[eE][-+]?[0-9]{{1,9}})?|\.[0-9]{{1,400}})(?:\\?%)?"
)
_MATH = re.compile(r"\\\\|\\\$|\$\$?|\\[()\[\]]|\n[ \t]{0,9}\n")
_CLOSERS = {"$": "$", "$$": "$$", "\\(": "\\)", "\\[": "\\]"}
_OPENERS = re.compile(r"\$\$?|\\[(\[]")
_UNESCAPED_DOLLAR = re.compile(r"(?<!\\)\$")
_STOP = re.compile(
    r"\\begin\b|\\end\b|\$\$?|\\[(\[]|\\.|[{}]|\n|。|(?<!\.)(?<!i\.e)\.(?=[*'\u201d\u2019)]{0,3}(?:\s|$))|\?(?=[\s*\u201d\u2019)]|$)",
    re.DOTALL,
)
_LINE_STOP = re.compile(r"\n|(?<!\.)\.(?=\s|\*|$)")
_BEFORE = " \t\r\n$*:`✅✔☑🎯➡"
_AFTER = " \t\r\n$*.,;:`✅✔☑🎉🎯■□∎"
_QUOTES = frozenset({('"', '"'), ("\u201c", "\u201d")})


class Found(NamedTuple):
    """An answer and its place: `start` and `end` are offsets into the text that was searched."""

    answer: str
    start: int
    end: int


def formula_end(text: str, start: int, stop: int) -> int | None:
    """Where the formula that opens at `start` ends, closing delimiter included, or None when no formula does.

    Delimiters are `$`, `$$`, `\\(` and `\\[`. As in pandoc, a closing `$` has no space before it unless the opening
    one has a space after it, and no digit after it, so that `$5 and $6` are two prices.
    """
    opener = _OPENERS.match(text, start, stop)
    if opener is None:
        return None
    closer = _CLOSERS[opener.group()]
    if closer != "$":
        end = text.find(closer, opener.end(), stop)
        return end + 2 if end >= 0 else None
    dollar = _UNESCAPED_DOLLAR.search(text, opener.end(), stop)
    if dollar is None or dollar.start() == opener.end() or text[dollar.end() : dollar.end() + 1].isdecimal():
        return None
    spaced = text[dollar.start() - 1].isspace() and not text[opener.end()].isspace()
    paragraphs = "\n\n" in text[opener.end() : dollar.start()]
    return None if spaced or paragraphs else dollar.end()


def sentence_end(text: str, start: int) -> int:
    """Where the sentence that begins at `start` ends: before a full stop, a question mark or a line's end that is in
    no formula, no braces and no environment. At most 2,000 characters on."""
    stop = min(len(text), start + LONGEST)
    position, depth = start, 0
    while token := _STOP.search(text, position, stop):
        symbol, position = token.group(), token.end()
        if symbol in _CLOSERS:
            position = formula_end(text, token.start(), stop) or position
        elif symbol in ("{", "\\begin"):
            depth += 1
        elif symbol in ("}", "\\end"):
            depth -= 1
        elif symbol in "\n.。?" and depth <= 0:
            return token.start()
    if depth <= 0:
        return stop
    plain_end = _LINE_STOP.search(text, start, stop)
    return plain_end.start() if plain_end else stop


def trimmed(text: str, start: int, end: int) -> Found | None:
    """What stands between two places, without markdown, quotes, dollar signs and stops around it; None if blank."""
    while start < end and text[start] in _BEFORE:
        start += 1
    while end > start and text[end - 1] in _AFTER and not _belongs(text, start, end):
        end -= 1 + (text[end - 1] in ",;:" and text[end - 2] == "\\" and end - 2 >= start)
    for opener, closer in (("\\(", "\\)"), ("\\[", "\\]")):
        if text.startswith(opener, start, end) and text.endswith(closer, start + 2, end):
            start, end = start + 2, end - 2
    if end - start > 2 and (text[start], text[end - 1]) in _QUOTES:
        start, end = start + 1, end - 1
    inside = text[start:end].strip()
    start = text.find(inside, start, end)
    return Found(inside, start, start + len(inside)) if inside else None


def _belongs(text: str, start: int, end: int) -> bool:
    """Whether the last character is part of the answer: an escaped dollar sign, or the dots of `0.333...`."""
    last = text[max(start, end - 2) : end]
    return last == "\\$" or last == ".."


def last_formula(text: str) -> Found | None:
    """What the last formula between `$`, `$$`, `\\(` `\\)` or `\\[` `\\]` holds, of the last 16."""
    opened: re.Match[str] | None = None
    spans: deque[tuple[int, int]] = deque(maxlen=16)
    for token in _MATH.finditer(text):
        symbol = token.group()
        if opened is not None and symbol == _CLOSERS[opened.group()]:
            spans.append((opened.end(), token.start()))
            opened = None
        elif symbol in _CLOSERS:
            opened = token
        elif symbol[0] == "\n" and opened is not None and opened.group() == "$":
            opened = None
    return next((found for span in reversed(spans) if (found := trimmed(text, *span))), None)


def last_number(text: str) -> Found | None:
    """The last number with its sign, decimals, thousands separators, fraction or percent sign."""
    last: re.Match[str] | None = None
    for last in _LAST_NUMBER.finditer(text):  # noqa: B007 - the last is wanted
        pass
    return Found(last.group(), last.start(), last.end()) if last else None
