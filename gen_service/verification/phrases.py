"""Answers that are stated in words: "the answer is", a heading, `####`, a choice. Pure and linear for any input."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from gen_service.verification.formulas import LONGEST, Found, formula_end, sentence_end, trimmed
from gen_service.verification.prose import plain, stated

# Each costs at most 2,000 characters, so the search stays linear; the last ones are read first.
_MOST_STATEMENTS = 16
_LONGEST_ALONE = 200
_LABEL = re.compile(
    r"(?:\banswers?|答案)[*_`\"\u201d\u2019)]{0,4}(?:"
    r"\s{0,4}(?:(?:is|are)\b|[:\uff1a=≈→]|是|为)"
    r"|(?P<weak>\s{1,4}(?:should|would|must|will)\s{1,4}be\b|\s{1,4}(?:to|for|of|in)\b[^.:=$\n?!]{1,60}?(?:\b(?:is|are)\b|:)"
    r"|\s{0,4}\([^()\n]{1,60}\)\s{0,4}(?:(?:is|are)\b|:)|(?<=\*\*)[ \t]{1,4}(?=\S))"
    r")|\b(?P<letter>(?:correct|right|best)\s{1,4}(?:option|choice)\b[*_]{0,2}\s{0,4}(?:is\b|:))",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"^[^\w\n$\\]{0,20}(?:(?:step\s?)?[0-9]{1,2}\s?[.):]\s?)?(?:the\s)?(?:final\s|correct\s)?answers?[^\w\n$\\]{0,20}$",
    re.IGNORECASE | re.MULTILINE,
)
_LEAD = re.compile(
    r"(?:[\s:\uff1a]|\*{1,3}(?=\s)){0,40}(?:(?:-{3,20}|={3,20}|\*{3,20}|`{3}\w{0,12})(?=\s))?[\s:\uff1a]{0,40}"
)
_ADVERB = re.compile(
    r"(?:(?:therefore|thus|then|hence|now|simply|just|indeed|clearly|exactly|approximately|about|roughly|given by"
    r"|equal to|found to be|as follows|option|choice)\b(?!\s{0,4}=)[\s,:]{1,4}){0,3}",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(
    r"(?:\b(?:if|whether|suppose|supposing|assume|assuming|unless|not|cannot)|n[\u2019']t)\s{1,4}(?:\w{1,20}\s{1,4})?"
    r"(?:that\s{1,4})?(?:(?:the|my|our|your|final|correct)\s{1,4}){0,3}$",
    re.IGNORECASE,
)
_AFFIRMED = re.compile(
    r"(?:(?:indeed|therefore|also|thus|already) )?(?:(?:correct|right|reasonable|consistent|verified|valid|confirmed)\b"
    r"|(?:obtained|derived|computed|calculated|found) (?:by|from|using|as|in)\b)",
    re.IGNORECASE,
)
_BOX = re.compile(r"\\f?box(?:ed)?(?![a-z])")
_ITEM = re.compile(r"[0-9]{1,2}[.)][ \t]{1,4}(?=\S)")
_NO_VALUE = re.compile(rf"{_BOX.pattern}|^(?:#|the answer$|final answer$|answer$)", re.IGNORECASE)
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n#]{1,2000})")
_CHOICE = re.compile(r"[*$\s]*(?:\\text(?:bf)?\{)?\(?([A-J])(?:\)|(?=[\s*$.,:;})]|$))")
_LAST_CHOICE = re.compile(
    r"(?:^[\W_]*\(?(?P<line>[A-J])\)?[\W_]*"
    r"|(?<!not )\((?P<bracket>[A-J])\)[\W_]*"
    r"|(?<!not )\b(?:option|choice|answer)\s{1,4}[*$(]{0,4}(?P<option>[A-J])\b[*$)]{0,4}"
    r"(?:\s{1,4}is\s{1,4}(?:the\s{1,4})?(?:correct|right|best)(?:\s{1,4}(?:answer|option|choice|one))?)?[\W_]*"
    r"|\b(?:choose|pick|select|so|thus|hence|therefore)[\s,:]{1,4}[*$(]{0,4}(?P<so>[A-J])\b[\W_]*)$",
    re.IGNORECASE,
)


def hashes(text: str) -> Found | None:
    """What follows the last `####` on its line, of the last 16, unless it is the heading of a section: prose with more
    text after it, or a line that says "answer"."""
    last: Found | None = None
    end_of_text = len(text.rstrip())
    for match in deque(_HASHES.finditer(text), _MOST_STATEMENTS):
        if _LABEL.search(match[1]) or _HEADING.search(match[1]):
            continue
        if match.end() >= end_of_text or plain(match[1]):
            last = trimmed(text, match.start(1), match.end(1)) or last
    return last


def phrase(text: str) -> Found | None:
    """What the last statement of the answer says, of the last 16.

    A statement is "answer is", "answer:" and their kin, or a heading such as `### Final Answer` with the answer on its
    line or on the next that is not blank. No statement is: a question; a supposition ("if the answer is 5"); what only
    affirms or explains one before it ("the answer is correct"); what holds a box, which is unfinished or quoted then,
    or is a heading. After loose wording ("the answer should be", "the answer to the first part is") and after "the
    correct option is" only an answer without prose, or a letter, counts.
    """
    affirmed: Found | None = None
    for start, label in _statements(text):
        begin = _after(text, start)
        item = _ITEM.match(text, begin)
        end = sentence_end(text, item.end() if item and text[begin - 1 : begin] == "\n" else begin)
        if text[end : end + 1] == "?":
            continue
        found, certain = stated(text, begin, end)
        if found is None or _NO_VALUE.search(found.answer) or (label["weak"] and not certain):
            continue
        if label["letter"] and not _CHOICE.match(found.answer):
            continue
        if not _AFFIRMED.match(found.answer):
            return found
        affirmed = affirmed or found
    return affirmed


def _statements(text: str) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Where the last statements begin, the last one first, with what the label was."""
    labels = deque(_LABEL.finditer(text), _MOST_STATEMENTS)
    headings = deque(_HEADING.finditer(text), _MOST_STATEMENTS)
    nothing: dict[str, str | None] = {"letter": None, "weak": None}
    places = {match.end(): nothing for match in headings}
    places |= {
        match.end(): match.groupdict()
        for match in labels
        if not _SUPPOSED.search(text[max(0, match.start() - 60) : match.start()])
    }
    yield from sorted(places.items(), key=lambda place: place[0], reverse=True)[:_MOST_STATEMENTS]


def _after(text: str, start: int) -> int:
    for pattern in (_LEAD, _ADVERB, _LEAD):
        match = pattern.match(text, start)
        start = match.end() if match else start
    return start


def chosen(found: Found) -> Found | None:
    """The letter that an answer such as `(C) 42` or `C. 42` begins with, or None."""
    match = _CHOICE.match(found.answer)
    if match is None:
        return None
    start = found.start + match.start(1)
    return Found(match[1], start, start + 1)


def choice(text: str) -> Found | None:
    """The letter A to J that the last line ends in as a choice: `C` or `C.` alone, `(C)`, `option C`, `so C`."""
    end = len(text.rstrip())
    start = max(text.rfind("\n", 0, end) + 1, end - LONGEST)
    match = _LAST_CHOICE.search(text[start:end])
    if match is None or match.lastgroup is None:
        return None
    return Found(match[match.lastgroup], start + match.start(match.lastgroup), start + match.end(match.lastgroup))


def alone(text: str) -> Found | None:
    """The whole text, when it is one formula or one short line without prose; or the formula at the end of the one
    short sentence that the text is, where that says what the formula is ("the solution is $x = 5$")."""
    found = trimmed(text, 0, len(text)) if len(text) <= 2 * LONGEST else None
    if found is None or _BOX.search(found.answer):
        return None
    start, end = len(text) - len(text.lstrip(" \t\r\n*:")), len(text.rstrip(" \t\r\n*.,;:"))
    if formula_end(text, start, end) == end:
        return found
    if "\n" in found.answer or len(found.answer) > _LONGEST_ALONE:
        return None
    if not plain(text) and not text[:end].endswith(("$", "\\)")):
        return None
    listed, certain = stated(text, start, end)
    return listed if certain else None
