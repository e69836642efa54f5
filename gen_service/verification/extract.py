"""The final answer in a completion's text. Pure, and linear in the text's length for any input."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gen_service.records import CANCELLED, How
from gen_service.settings import ExtractionPolicy
from gen_service.verification import boxes as boxed
from gen_service.verification import phrases
from gen_service.verification.formulas import Found, last_formula, last_number, trimmed

VERSION = 3  # raised whenever another answer may be found

_THINK_OPEN = "<think>"
_THINK_CLOSE = "</think>"
_TAG_OPEN = "<answer>"
_TAG_CLOSE = "</answer>"
# Finish reasons of a text that did not end by itself: at the token limit, or cut in flight as it was not needed.
CUT_OFF = frozenset({"length", CANCELLED})
# Bounds the time on the event loop; 32k tokens are about 130,000 characters.
_SEARCHED = 200_000


@dataclass(frozen=True, slots=True)
class Extracted:
    """What was found.

    Attributes:
        answer: the final answer as it was written, or None.
        how: which rule found it.
        truncated: the text stopped before a final answer was complete.
        start, end: the answer's place in the content as it was given; -1 where there is none. Of several joined
            answers, from the first to the last.
    """

    answer: str | None
    how: How
    truncated: bool = False
    start: int = -1
    end: int = -1


_NOTHING = Extracted(None, "none")
_TRUNCATED = Extracted(None, "none", truncated=True)


def extract(
    reasoning: str | None,
    content: str,
    finish_reason: str,
    policy: ExtractionPolicy = "strict",
    choices: bool = False,
) -> Extracted:
    """Finds the final answer in what follows the thinking.

    The strict rule, in order; within a rule the last statement wins:
    (1) Thinking that was opened and never closed is `truncated`.
    (2) `boxed`: the last complete `\\boxed{}` or `\\fbox{}`, adjacent ones joined by ", "; `\\boxed 7` too. A box left
    empty takes back what was said before it, so that only (3) to (6) after it count; but an empty one that an
    instruction quotes (`your answer in \\boxed{}`) is none.
    (3) `answer_tag`: the last complete `<answer>` element.
    (4) `hashes`: the line after the last `####` that is no heading.
    (5) `phrase`: the last statement of the answer in words, see `phrases.phrase`.
    (6) With `choices`, `choice`: the letter that (5) or the last line gives.
    (7) `alone`: the whole text, when it is one formula or one short line without prose.
    A text that was cut off counts only by (2) and (3), whose end is certain, and only when no later box was cut
    open; else it is `truncated`. `reasoning` is never searched: a number met on the way is not an answer. Only the
    last 200,000 characters are.

    The lenient rule: what the strict one finds; else an unfinished box to the end of its line, then (2) to (7) whether
    cut or not, then `last_formula`, then `last_number`. Thinking that never ended is searched too, and `reasoning`
    when nothing follows it; what is found there is `text`, whichever rule found it.

    Args:
        reasoning: the thinking, where the server or client split it off; None when there was none.
        content: the text after the thinking.
        finish_reason: as the server gave it; those in CUT_OFF mean that the text did not end by itself.
        policy: `strict` for rewards and published verdicts; `lenient` for the evaluation of weak models.
        choices: whether the answer is one of several choices named by letters.
    """
    cut = finish_reason in CUT_OFF
    closed = content.rfind(_THINK_CLOSE)
    after = closed + len(_THINK_CLOSE) if closed >= 0 else 0
    thinking = content.find(_THINK_OPEN, after) >= 0
    offset = max(after, len(content) - _SEARCHED)
    text = content[offset:]
    empty = not text.strip()
    found = _TRUNCATED if thinking or (cut and reasoning and empty) else _strict(text, cut, choices)
    if found.answer is None and policy == "lenient":
        if empty and reasoning:
            guess = _lenient(reasoning[-_SEARCHED:], choices, True)
            return replace(guess, how="text", start=-1, end=-1) if guess else found
        guess = _lenient(text, choices, found.truncated)
        found = (replace(guess, how="text") if thinking else guess) if guess else found
    return replace(found, start=found.start + offset, end=found.end + offset) if found.answer is not None else found


def _strict(text: str, cut: bool, choices: bool) -> Extracted:
    found = boxed.boxes(text)
    begin = 0
    if found.complete:
        last = found.complete[-1]
        open_ended = found.opened >= 0 or (last.end == len(text) and text[-1] != "}")
        if not (cut and open_ended):
            if not boxed.is_empty(text, last):
                return _made(boxed.joined(text, found.complete), "boxed")
            begin = last.end
    tag = _tagged(text, begin)
    if tag is not None:
        return tag
    if cut:
        return _TRUNCATED
    stated = _from_words(text[begin:], choices, whole=begin == 0)
    if stated.answer is None:
        return Extracted(None, "boxed") if begin else stated
    return replace(stated, start=stated.start + begin, end=stated.end + begin)


def _tagged(text: str, begin: int) -> Extracted | None:
    end = text.rfind(_TAG_CLOSE, begin)
    start = text.rfind(_TAG_OPEN, begin, end) if end >= 0 else -1
    if start < 0:
        return None
    found = trimmed(text, start + len(_TAG_OPEN), end)
    return _made(found, "answer_tag") if found else Extracted(None, "answer_tag")


def _from_words(text: str, choices: bool, whole: bool) -> Extracted:
    if found := phrases.hashes(text):
        return _made(found, "hashes")
    if found := phrases.phrase(text):
        letter = phrases.chosen(found) if choices else None
        return _made(letter, "choice") if letter else _made(found, "phrase")
    if choices and (found := phrases.choice(text)):
        return _made(found, "choice")
    return _made(found, "alone") if whole and (found := phrases.alone(text)) else _NOTHING


def _lenient(text: str, choices: bool, unsearched: bool) -> Extracted | None:
    """The lenient rule where the strict one found nothing, or did not search since the text was cut."""
    if found := boxed.unfinished(text, boxed.boxes(text)):
        return _made(found, "boxed")
    if unsearched and (stated := _strict(text, False, choices)).answer is not None:
        return stated
    if found := last_formula(text):
        return _made(found, "last_formula")
    found = last_number(text)
    return _made(found, "last_number") if found else None


def _made(found: Found, how: How) -> Extracted:
    return Extracted(found.answer, how, False, found.start, found.end)
