"""The final answer in a completion's text. Pure, and linear in the text's length for any input."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

How = Literal["boxed", "answer_tag", "hashes", "phrase", "none"]

_THINK_OPEN = "<think>"
_THINK_CLOSE = "</think>"
# A double backslash is a line break, except before `boxed`, where it is a box out of an escaped string.
_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\\\(?!(?:boxed|fbox)\b)|\\[{}]|[{}]")
_BETWEEN_BOXES = re.compile(r"[ \t$,;&~]{0,40}(?:(?:\\text\{ ?)?(?:and|or)(?: ?\})?)?[ \t$,;&~]{0,40}")
_PHRASE = re.compile(r"answer\**\s{0,4}(?:is|:)[\s:]{0,4}", re.IGNORECASE)
_PHRASE_END = re.compile(r"\n|\.(?=\s|$|\*)")
_PHRASE_LIMIT = 2_000
# Bounds the time on the event loop (0.3 ms per 1,000 characters at worst); 32k tokens are about 130,000 characters.
_SEARCHED = 200_000


@dataclass(frozen=True, slots=True)
class Extracted:
    """What was found.

    Attributes:
        answer: the final answer as it was written, or None.
        how: which rule found it.
        truncated: the text stopped before a final answer was complete.
    """

    answer: str | None
    how: How
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class _Box:
    start: int
    inner_start: int
    inner_end: int
    end: int


def extract(reasoning: str | None, content: str, finish_reason: str) -> Extracted:
    """Finds the final answer in what follows the thinking.

    The rule, in order: (1) thinking that was opened and never closed is `truncated`; (2) the last complete
    `\\boxed{}` or `\\fbox{}`, adjacent ones joined by ", "; (3) the last complete `<answer>` element; (4) the line
    after the last `####`; (5) the sentence after the last "answer is" or "answer:". A text cut by the token limit
    counts only by (2) and (3), whose end is certain, and only when no later box was cut open; else it is `truncated`.
    `reasoning` is never searched: a number met on the way is not an answer. Only the last 200,000 characters are.

    Args:
        reasoning: the thinking, where the server or client split it off; None when there was none.
        content: the text after the thinking.
        finish_reason: as the server gave it; `length` means cut by the token limit.
    """
    cut = finish_reason == "length"
    content = content[-_SEARCHED:]
    closed = content.rfind(_THINK_CLOSE)
    if closed >= 0:
        content = content[closed + len(_THINK_CLOSE) :]
    if _THINK_OPEN in content or (cut and reasoning and not content.strip()):
        return Extracted(None, "none", truncated=True)
    boxes, open_box = _boxes(content)
    if boxes and not (cut and open_box):
        return Extracted(_joined(content, boxes) or None, "boxed")
    tagged = _tagged(content)
    if tagged is not None:
        return Extracted(tagged or None, "answer_tag")
    if cut:
        return Extracted(None, "none", truncated=True)
    return _from_words(content)


def _from_words(content: str) -> Extracted:
    hashes = content.rfind("####")
    if hashes >= 0:
        line = content[hashes + 4 : hashes + 4 + _PHRASE_LIMIT].lstrip(" \t").partition("\n")[0]
        return Extracted(_unwrapped(line) or None, "hashes")
    start = -1
    for match in _PHRASE.finditer(content):
        start = match.end()
    if start < 0:
        return Extracted(None, "none")
    sentence = _PHRASE_END.split(content[start : start + _PHRASE_LIMIT], maxsplit=1)[0]
    return Extracted(_unwrapped(sentence) or None, "phrase")


def _boxes(content: str) -> tuple[list[_Box], bool]:
    """The complete outermost boxes in order, and whether a box is left open after the last of them."""
    first = content.find("\\boxed")
    framed = content.find("\\fbox")
    start = min(first, framed) if first >= 0 and framed >= 0 else max(first, framed)
    if start < 0:
        return [], False
    boxes: list[_Box] = []
    stack: list[tuple[int, int] | None] = []
    for token in _TOKEN.finditer(content, start):
        text = token.group()
        if text == "{":
            stack.append(None)
        elif text == "}" and stack:
            opened = stack.pop()
            if opened is not None:
                _close(content, boxes, _Box(opened[0], opened[1], token.start(), token.end()))
        elif len(text) > 2:
            stack.append((token.start(), token.end()))
    last = boxes[-1].start if boxes else -1
    return boxes, any(opened is not None and opened[0] > last for opened in stack)


def _close(content: str, boxes: list[_Box], outer: _Box) -> None:
    """Adds a box in place of those inside it; a box that holds nothing but a box stands for the inner one's text."""
    inside: _Box | None = None
    while boxes and boxes[-1].start > outer.start:
        inside = boxes.pop()
    if (
        inside is not None
        and _blank(content, outer.inner_start, inside.start)
        and _blank(content, inside.end, outer.inner_end)
    ):
        outer = _Box(outer.start, inside.inner_start, inside.inner_end, outer.end)
    boxes.append(outer)


def _blank(content: str, start: int, end: int) -> bool:
    return content[start : min(end, start + 100)].isspace() if start < end else True


def _joined(content: str, boxes: list[_Box]) -> str:
    """The last box, with those before it that only a separator parts from the next. A repeated box counts once."""
    last = boxes[-1]
    parts = [content[last.inner_start : last.inner_end].strip()]
    for before, after in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        if not _BETWEEN_BOXES.fullmatch(content, before.end, after.start):
            break
        part = content[before.inner_start : before.inner_end].strip()
        if part != parts[-1]:
            parts.append(part)
    return ", ".join(part for part in reversed(parts) if part)


def _tagged(content: str) -> str | None:
    end = content.rfind("</answer>")
    start = content.rfind("<answer>", 0, end) if end >= 0 else -1
    return _unwrapped(content[start + len("<answer>") : end]) if start >= 0 else None


def _unwrapped(text: str) -> str:
    """Without the markdown, dollar signs and full stops around it."""
    return text.strip(" \t\r\n$*:").rstrip(" \t\r\n$*.,;:").removeprefix("\\(").removesuffix("\\)").strip()
