"""Problem sets: JSON-lines files with `problem` and `answer`, as they are found in the wild."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

SMALL = Path(__file__).with_name("verification_problems.jsonl")
INTEGER = re.compile(r"-?[0-9]{1,30}")
_NUMBER = re.compile(r"-?(?:[0-9]*\.[0-9]+|[0-9]+/[0-9]+|\\[dt]?frac\{-?[0-9]+\}\{[0-9]+\})")
TEXT = re.compile(r"\\(?:text|mathrm|textbf)\{([^{}]*)\}")

Kind = str


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a set.

    Attributes:
        place: file and line.
        source: the set.
        question: its text.
        golds: its answers as the set writes them, stripped; more than one where the set gives other spellings.
    """

    place: str
    source: str
    question: str
    golds: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        """The shape of its first gold."""
        return kind_of(self.golds[0])


@dataclass(frozen=True, slots=True)
class ProblemSets:
    """What a folder holds: its problems, and how many rows had no answer."""

    problems: list[Problem]
    without_gold: int


def read_problems(folder: Path | None) -> ProblemSets:
    """Every problem of the JSONL files in a folder (`problem` or `question`, `answer`), else the small built-in set."""
    paths = sorted(folder.glob("*.jsonl")) if folder is not None else []
    if not paths:
        why = "no folder of problem sets was given" if folder is None else f"{folder} holds no .jsonl file"
        print(f"{why}: the small built-in set ({SMALL.name}) stands in for them")
        paths = [SMALL]
    problems, without = [], 0
    for path in paths:
        for number, row in _rows(path):
            golds = golds_of(row.get("answer"))
            without += not golds
            if golds:
                text = str(row.get("problem") or row.get("question") or "")
                problems.append(Problem(f"{path.name}:{number}", path.stem, text, golds))
    return ProblemSets(problems, without)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            yield number, orjson.loads(line)


def golds_of(answer: object) -> tuple[str, ...]:
    """The gold answers in a row's `answer`: a text, a number (142.0 is 142) or a list of them."""
    if isinstance(answer, list):
        return tuple(gold for one in answer for gold in golds_of(one))
    if isinstance(answer, float) and answer.is_integer():
        return (str(int(answer)),)
    text = "" if answer is None else str(answer).strip()
    return (text,) if text else ()


def kind_of(gold: str) -> Kind:
    """What shape a gold has."""
    gold = gold.strip("$ ").replace(",\\!", "")
    if INTEGER.fullmatch(gold):
        return "integer"
    if _NUMBER.fullmatch(gold):
        return "number"
    if "\\begin" in gold:
        return "matrix"
    if TEXT.fullmatch(gold) or re.fullmatch(r"[A-Za-z][A-Za-z ]{2,}", gold):
        return "text"
    if "," in gold and gold.startswith(("(", "[", "{", "<", r"\left", r"\{")):
        return "tuple"
    if re.search(r"[=<>]|\\[lg]eq?|\\in\b", gold):
        return "relation"
    return "list" if "," in gold else "expression"
