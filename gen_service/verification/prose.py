"""What in a sentence is an answer and what is prose around it. Pure; meant for texts of at most 2,000 characters."""

from __future__ import annotations

import re

from gen_service.verification.formulas import Found, formula_end, trimmed

_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
_LETTER_WORD = re.compile(r"(?<![\w\\^])(?:a|I)(?=\s+[^\W\d_]{2,})")
# Longer runs of letters are words; shorter ones are products of variables unless they are one of these.
_SHORT_WORDS = re.compile(
    r"\b(?:is|are|was|be|am|do|it|we|he|she|you|me|my|our|the|an|of|to|for|at|by|on|as|so|if|no|not|but|can|may|all|any"
    r"|has|had|how|who|why|its|his|her|get|got|let|now|use|yes|out|off|one|two|too|then|thus|oh|ok|hmm|here|this|that"
    r"|what|which|when|where|with|from|than|only|wait|each|some|have|must|need)\b",
    re.IGNORECASE,
)
_MATH_WORDS = re.compile(
    r"and|or|mod|(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|log|exp|gcd|lcm|min|max|sup|inf|det|deg|sqrt|frac|infty|infinity"
    r"|cup|cap|times|cdot|undefined",
    re.IGNORECASE,
)
_FIXED = re.compile(
    r"(?:there (?:is|are) )?no (?:real |integer |such |positive )?(?:solutions?|roots?|answer|limit|values?)|none"
    r"|does not exist|all real numbers|infinitely many(?: solutions)?|not possible|impossible|yes|no|one|two",
    re.IGNORECASE,
)
_MOST_UNIT_WORDS = 3
_REASON = re.compile(
    r"(?<![\s,;:(\u2013\u2014])[\s,;:(\u2013\u2014]+(?:because|since|so|as|which|thus|hence|therefore|where|given that"
    r"|due to|that is|i\.e|and (?:we|it|this|that|so|thus|hence|therefore))\b",
    re.IGNORECASE,
)
_OTHER = re.compile(r"(?<![\s,;(\u2013\u2014])[\s,;(\u2013\u2014]+(?:not|rather than|instead of)\b", re.IGNORECASE)
_ASIDE = re.compile(r"(\s*\$?[-+]?[0-9][0-9.,/]*[0-9]\$?|\s*[0-9]),\s+(?!and\b|or\b|not\b)[a-z]{2,}\b")
_MARKS = re.compile(r"[\s*]*")
_VALUE = re.compile(r"\s*\$?\s*(?:[-+]?[0-9][0-9.,/]*|[A-J])\s*\$?\s*")
_VERB = re.compile(r"\b(?:is|are|equals)\b\s*(?:equal to\s|:)?")
_CONDITION = re.compile(r"\b(?:if|when|unless|and|or|not|whether|except)\b|=", re.IGNORECASE)
_BOLD = re.compile(r"(?<![\w*])\*\*(?=[^\s*])([^*\n]+)(?<=\S)\*\*(?![\w*])")
_DOLLAR = re.compile(r"(?<!\\)\$")
_BETWEEN = re.compile(r"[\s*]{0,4}(?:[,;]?\s{0,2}(?:and|or)\b|[,;])\s{0,4}\**")


def plain(text: str) -> bool:
    """Whether a text is an answer without prose: mathematics, with at most three words of a unit after it; one word
    alone; or a fixed phrase such as `no solution`."""
    bare = text.strip(" \t\r\n*$.:`")
    if _FIXED.fullmatch(bare):
        return True
    letters = _COMMAND.sub(" ", bare)
    if _SHORT_WORDS.search(letters) or _LETTER_WORD.search(bare):
        return False
    words = [word for word in _WORD.findall(letters) if not _MATH_WORDS.fullmatch(word)]
    long = [word for word in words if len(word) > 3 and not word.isupper()]
    if not long:
        return True
    return bare == long[0] if bare.startswith(long[0]) else len(words) <= _MOST_UNIT_WORDS


def stated(text: str, start: int, end: int) -> tuple[Found | None, bool]:
    """The answer that a sentence after "the answer is" states, and whether it is without prose.

    The whole rule: formulas that only `and`, `or` or a comma part are joined by ", "; what gives a reason
    ("42 because ...", "5, since ...") is left out after an answer without prose, as is ", not 41" after a number or a
    letter, and ", in all" and other words after a number and a comma; a sentence with one verb that ends in an answer
    without prose, and no condition before ("the sum of all is $42$"), states that answer. Any other sentence is taken
    whole.
    """
    listed = _listed(text, start, end)
    if listed is not None:
        return listed, True
    if (aside := _ASIDE.match(text, start, end)) is not None:
        return _cleaned(text, start, aside.end(1)), True
    for remark in (_REASON.search(text, start, end), _OTHER.search(text, start, end)):
        if remark is None:
            continue
        head = text[start : remark.start()]
        allowed = plain(head) if remark.re is _REASON else _VALUE.fullmatch(head.strip("*"))
        if head.strip() and allowed and _paired(head):
            return _cleaned(text, start, remark.start()), True
    whole = text[start:end]
    if not plain(whole):
        verbs = list(_VERB.finditer(text, start, end))
        if len(verbs) == 1 and not _CONDITION.search(text, start, verbs[0].start()):
            tail = text[verbs[0].end() : end]
            if tail.strip() and plain(tail) and _paired(tail):
                return _cleaned(text, verbs[0].end(), end), True
        return _cleaned(text, start, end), False
    return _cleaned(text, start, end), True


def _listed(text: str, start: int, end: int) -> Found | None:
    """One formula, or several that are listed, and nothing but punctuation or a reason after them."""
    parts: list[Found] = []
    position = rest = _MARKS.match(text, start, end).end()  # type: ignore[union-attr]  # it matches the empty text
    while (closed := formula_end(text, position, end)) is not None:
        part = trimmed(text, position, closed)
        if part is None:
            return None
        parts.append(part)
        rest = closed
        separator = _BETWEEN.match(text, closed, end)
        if separator is None:
            break
        position = separator.end()
    tail = text[rest:end]
    if not parts or (tail.strip(" \t\r\n*.,;:!") and not _REASON.match(" " + tail.lstrip("* "))):
        return None
    return Found(", ".join(part.answer for part in parts), parts[0].start, parts[-1].end)


def _cleaned(text: str, start: int, end: int) -> Found | None:
    """Without the markup around it, dollar signs and bold marks inside it, and a bracket that nothing opened."""
    found = trimmed(text, start, end)
    if found is None:
        return None
    answer = _BOLD.sub(r"\1", text[start:end])
    answer = _DOLLAR.sub("", answer) if _paired(answer) else answer
    clean = trimmed(answer, 0, len(answer))
    answer = clean.answer if clean else ""
    if answer.endswith(")") and "(" not in answer and "[" not in answer:
        answer = answer[:-1].rstrip()
    return Found(answer, found.start, found.end) if answer else None


def _paired(text: str) -> bool:
    return len(_DOLLAR.findall(text)) % 2 == 0
