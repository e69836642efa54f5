"""The boxes of a text, `\\boxed{...}` and `\\fbox{...}`, in one pass. Pure and linear for any input."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from gen_service.verification.formulas import LONGEST, NUMBER, Found, trimmed

# Without braces only a number or a letter that nothing continues is taken: of `\\boxed 3x` TeX would box the 3 alone.
_ALONE = r"(?![A-Za-z0-9{(^_/%]|[.,][0-9]|[ \t]{0,4}(?:[-+/^_=<>]|\*(?!\*)|\\(?![)\]])))"
# A double backslash is a line break, except before `boxed`, where it is a box out of an escaped string.
_TOKEN = re.compile(
    rf"\\(?:boxed|fbox)\s*(?:\{{|(?P<bare>-?{NUMBER}(?:\\?%)?|(?<=\s)[A-Z]){_ALONE})"
    r"|\\\\(?!(?:boxed|fbox)\b)|\\[{}]|[{}]"
)
_COMMAND = re.compile(r"\\{1,2}(?:boxed|fbox)(?![A-Za-z])")
_SEPARATORS = r"(?:[ \t$,;&~*]|\\[()\[\],;: ]|\\q?quad(?![a-z])){0,40}"
_LISTED = re.compile(_SEPARATORS)
_WITH_WORD = re.compile(
    rf"\s{{0,4}}{_SEPARATORS}\s{{0,4}}(?:\\text\{{ ?)?(?:and|or)(?: ?\}})?\s{{0,4}}{_SEPARATORS}"
    r"(?:[a-zA-Z](?:_\{?\w\}?)? ?= ?)?"
)
_SINGLE_BACKSLASH = re.compile(r"(?<!\\)(?:\\\\)*\\(?!\\)")
_LABEL = re.compile(r"\\text\{\s*(?:the )?(?:final |correct )?answer(?: is)?\s?[:=]?\s*\}[\s:=]*(?=\S)", re.IGNORECASE)
_MOST_QUOTED = 16
_MOST_JOINED = 200
_SPACE = re.compile(r"\s*")
_QUOTED = re.compile(
    r"(?:\b(?:in|within|inside|into|using|with|of|a|an|the)\s{1,4}|[`\"'\u201c\u2018])[`\"'\u201c\u2018$\\(\s]{0,4}$"
)
_PLACEHOLDER = re.compile(r"\s*(?:\.{2,9}|…|\\[lc]?dots)?\s*")


class Box(NamedTuple):
    """Offsets of a box and of what it holds."""

    start: int
    inner_start: int
    inner_end: int
    end: int
    nested: bool = False


@dataclass(frozen=True, slots=True)
class Boxes:
    """What a text has of boxes.

    Attributes:
        complete: the outermost ones in order, without those that an instruction quotes (`in \\boxed{}`) at the end.
        opened: where what an unfinished box holds begins, of the last one after all complete ones; -1 for none.
    """

    complete: tuple[Box, ...]
    opened: int


def boxes(text: str) -> Boxes:
    """All boxes of a text. A box that holds nothing but a box stands for the inner one."""
    first, framed = text.find("\\boxed"), text.find("\\fbox")
    start = min(first, framed) if first >= 0 and framed >= 0 else max(first, framed)
    complete: list[Box] = []
    stack: list[tuple[int, int] | None] = []
    for token in _TOKEN.finditer(text, start) if start >= 0 else ():
        symbol = token.group()
        if token["bare"]:
            _close(text, complete, Box(token.start(), token.start("bare"), token.end(), token.end()))
        elif symbol == "{":
            stack.append(None)
        elif symbol == "}" and stack:
            opened = stack.pop()
            if opened is not None:
                _close(text, complete, Box(opened[0], opened[1], token.start(), token.end()))
        elif len(symbol) > 2:
            stack.append((token.start(), token.end()))
    for _ in range(_MOST_QUOTED):
        if not complete or not _is_quoted(text, complete[-1]):
            break
        complete.pop()
    last = complete[-1].start if complete else -1
    return Boxes(tuple(complete), max((box[1] for box in stack if box and box[0] > last), default=-1))


def _close(text: str, complete: list[Box], outer: Box) -> None:
    inside: Box | None = None
    while complete and complete[-1].start > outer.start:
        inside = complete.pop()
    if inside is None:
        complete.append(outer)
    elif _blank(text, outer.inner_start, inside.start) and _blank(text, inside.end, outer.inner_end):
        complete.append(Box(outer.start, inside.inner_start, inside.inner_end, outer.end, inside.nested))
    else:
        complete.append(outer._replace(nested=True))


def _blank(text: str, start: int, end: int) -> bool:
    return start >= end or _SPACE.fullmatch(text, start, end) is not None


def _is_quoted(text: str, box: Box) -> bool:
    if not _PLACEHOLDER.fullmatch(text, box.inner_start, box.inner_end):
        return False
    return _QUOTED.search(text[max(0, box.start - 40) : box.start]) is not None


def is_empty(text: str, box: Box) -> bool:
    """Whether a box holds nothing but space."""
    return not text[box.inner_start : box.inner_end].strip()


def joined(text: str, complete: tuple[Box, ...]) -> Found:
    """What the last box holds, with those before it that only a separator parts from the next.

    A box said twice counts once; at most 200 are joined. `start` and `end` span all that was joined.
    """
    last = _held(text, complete[-1])
    parts, start = [last.answer], last.start
    for index in range(len(complete) - 1, max(0, len(complete) - _MOST_JOINED), -1):
        before, after = complete[index - 1].end, complete[index].start
        if not (_LISTED.fullmatch(text, before, after) or _WITH_WORD.fullmatch(text, before, after)):
            break
        part = _held(text, complete[index - 1])
        if part.answer and part.answer != parts[-1]:
            parts.append(part.answer)
            start = part.start
    return Found(", ".join(reversed(parts)), start, last.end)


def _held(text: str, box: Box) -> Found:
    end = box.inner_end
    inside = text[box.inner_start : end].lstrip()
    if label := _LABEL.match(inside):
        inside = inside[label.end() :]
    start, inside = end - len(inside), inside.rstrip()
    end = start + len(inside)
    if box.nested:
        inside = _COMMAND.sub("", inside)
    if _is_escaped(text, box.start) and not _SINGLE_BACKSLASH.search(inside):
        inside = inside.replace("\\\\", "\\")
    return Found(inside, start, end)


def _is_escaped(text: str, start: int) -> bool:
    """Whether an odd number of backslashes stands before a box: then it comes out of an escaped string."""
    before = start
    while before > 0 and text[before - 1] == "\\":
        before -= 1
    return (start - before) % 2 == 1


def unfinished(text: str, found: Boxes) -> Found | None:
    """What the unfinished box after all others holds, to the end of its line."""
    if found.opened < 0:
        return None
    line_end = text.find("\n", found.opened, found.opened + LONGEST)
    return trimmed(text, found.opened, line_end if line_end >= 0 else min(len(text), found.opened + LONGEST))
