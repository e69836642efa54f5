"""Labelled pairs of a gold answer and a model's text: reading them, counting verdicts on them, the tables.

A case is right when `(outcome == "correct") == expected`. Nothing is left out of the figures: an answer that a verifier
could not read counts as not correct, and so does a gold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.figures import WIDTH

COMMITTED = Path(__file__).resolve().parent.parent / "tests" / "verification" / "cases"
UNDECIDED = ("unparsable", "ungradable", "timeout", "no_answer", "error")
_LONGEST_SHOWN = 160


@dataclass(frozen=True, slots=True)
class Case:
    """One labelled pair.

    Attributes:
        place: file and line, for people.
        gold: the reference answer, as a data set writes it.
        pred: a completion's content: a box, a bare formula or a text.
        expected: whether it is right.
        kind: what sort of answer the gold is.
        level: `answer` when the whole of `pred` is the answer where no rule of extraction finds one, else `text`.
    """

    place: str
    gold: str
    pred: str
    expected: bool
    kind: str = "any"
    level: str = "answer"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one side said of a case: its outcome, why, the answer it took, and CPU milliseconds in all its processes."""

    outcome: str
    reason: str
    answer: str | None
    cpu_ms: float | None


def read_cases(path: Path) -> list[Case]:
    """The cases of a JSON-lines file.

    Raises:
        ValueError: names the line and what is wrong with it.
    """
    return [
        _case(f"{path.name}:{number}", line)
        for number, line in enumerate(path.read_bytes().splitlines(), 1)
        if line.strip()
    ]


def evenly(cases: Sequence[Case], at_most: int | None) -> list[Case]:
    """So many of them, at the same distance from each other; all where `at_most` is None."""
    count = len(cases) if at_most is None else min(at_most, len(cases))
    return [cases[index * len(cases) // count] for index in range(count)]


def _case(place: str, line: bytes) -> Case:
    try:
        row = orjson.loads(line)
        gold, pred, expected = row["gold"], row["pred"], row["expected"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{place} is not a case with gold, pred and expected: {error!r}") from error
    if not (isinstance(gold, str) and isinstance(pred, str) and expected in (0, 1)):
        raise ValueError(f"{place}: gold and pred must be texts, expected 0 or 1")
    return Case(place, gold, pred, bool(expected), str(row.get("kind", "any")), str(row.get("level", "answer")))


def bare(text: str) -> str:
    """The text without the dollar signs around it, where they hold one formula."""
    text = text.strip()
    for mark in ("$$", "$"):
        inner = text.removeprefix(mark).removesuffix(mark)
        if len(text) - len(inner) == 2 * len(mark) and "$" not in inner:
            return inner.strip()
    return text


@dataclass(slots=True)
class Tally:
    """Counts of one side's outcomes over labelled cases.

    Attributes:
        equal, different: cases by their label.
        false_negatives: of `equal`, not called correct.
        false_positives: of `different`, called correct.
        outcomes: cases by outcome.
    """

    equal: int = 0
    different: int = 0
    false_negatives: int = 0
    false_positives: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def add(self, expected: bool, outcome: str) -> None:
        """One more case."""
        called = outcome == "correct"
        self.outcomes[outcome] += 1
        self.equal += expected
        self.different += not expected
        self.false_negatives += expected and not called
        self.false_positives += called and not expected

    @property
    def cases(self) -> int:
        """How many."""
        return self.equal + self.different

    @property
    def right_percent(self) -> float:
        """Of all cases; 0 without any."""
        wrong = self.false_negatives + self.false_positives
        return 100 * (self.cases - wrong) / self.cases if self.cases else 0.0

    @property
    def false_positive_percent(self) -> float:
        """Of the pairs labelled different: how many were called correct."""
        return 100 * self.false_positives / self.different if self.different else 0.0


def tally(cases: Iterable[Case], judgements: Iterable[Judgement]) -> Tally:
    """The counts of one side."""
    result = Tally()
    for case, judgement in zip(cases, judgements, strict=True):
        result.add(case.expected, judgement.outcome)
    return result


@dataclass(frozen=True, slots=True)
class Judged:
    """The cases of a file with what both sides said of each, in the file's order."""

    name: str
    cases: Sequence[Case]
    ours: Sequence[Judgement]
    plain: Sequence[Judgement]

    def tallies(self, kind: str | None = None) -> tuple[Tally, Tally]:
        """Ours and math-verify's, of one kind or of all."""
        chosen = [index for index, case in enumerate(self.cases) if kind in (None, case.kind)]
        cases = [self.cases[index] for index in chosen]
        ours, plain = ([side[index] for index in chosen] for side in (self.ours, self.plain))
        return tally(cases, ours), tally(cases, plain)

    @property
    def kinds(self) -> list[str]:
        """Every kind, the most frequent first."""
        return [kind for kind, _ in Counter(case.kind for case in self.cases).most_common()]


def joined(files: Sequence[Judged]) -> Judged:
    """All files as one."""
    return Judged(
        "all files",
        [case for file in files for case in file.cases],
        [one for file in files for one in file.ours],
        [one for file in files for one in file.plain],
    )


def show_kinds(judged: Judged) -> None:
    """Print one table: a row per kind, and the total."""
    table = Table(title=f"{judged.name}: ours | math-verify", title_justify="left")
    table.add_column("kind", no_wrap=True)
    for column in ("pairs", "right %", "false positives", "false negatives", *UNDECIDED):
        table.add_column(column.replace("_", " "), justify="right")
    kinds = judged.kinds
    for kind in kinds if len(kinds) > 1 else []:
        _add_row(table, kind, *judged.tallies(kind))
    table.add_section()
    _add_row(table, "total", *judged.tallies())
    _print(table)


def _add_row(table: Table, name: str, ours: Tally, plain: Tally) -> None:
    table.add_row(
        name,
        str(ours.cases),
        f"{ours.right_percent:.1f} | {plain.right_percent:.1f}",
        f"{ours.false_positives} | {plain.false_positives} of {ours.different}",
        f"{ours.false_negatives} | {plain.false_negatives} of {ours.equal}",
        *(f"{ours.outcomes[outcome]} | {plain.outcomes[outcome]}" for outcome in UNDECIDED),
    )


def show_misses(judged: Judged) -> None:
    """Print each case that ours has wrong, with both sides' reasons."""
    for case, ours, plain in zip(judged.cases, judged.ours, judged.plain, strict=True):
        if (ours.outcome == "correct") == case.expected:
            continue
        print(f"{case.place} [{case.kind}] labelled {'equal' if case.expected else 'different'}")
        print(f"    gold {shown(case.gold)}   text {shown(case.pred)}")
        print(f"    ours {ours.outcome}: {ours.reason}; took {shown(ours.answer)}")
        print(f"    math-verify {plain.outcome}: {plain.reason}")


def show_mislabelled(judged: Judged, path: Path) -> None:
    """Print the cases whose label was judged wrong, with the mathematics. They stay in every figure.

    Args:
        path: JSON lines with `gold`, `pred` and `mathematics`.
    """
    remarks = {}
    for line in filter(bytes.strip, path.read_bytes().splitlines()):
        row = orjson.loads(line)
        remarks[row["gold"], row["pred"]] = str(row["mathematics"])
    table = Table(title=f"judged mislabelled ({path.name}); none is left out above", title_justify="left")
    for column in ("case", "gold", "text", "label", "ours", "math-verify", "mathematics"):
        table.add_column(column)
    for case, ours, plain in zip(judged.cases, judged.ours, judged.plain, strict=True):
        if (remark := remarks.get((case.gold, case.pred))) is not None:
            label = "equal" if case.expected else "different"
            row = (case.place, shown(case.gold), shown(case.pred), label, ours.outcome, plain.outcome, remark)
            table.add_row(*map(_plain, row))
    _print(table)


def shown(text: str | None) -> str:
    """One line of a text."""
    if text is None:
        return "nothing"
    text = " ".join(text.split())
    return f"`{text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + ' ...'}`"


def _plain(text: str) -> str:
    """Without what rich would read as markup."""
    return text.replace("[", "\\[")


def _print(table: Table) -> None:
    Console(width=max(WIDTH, Console().width)).print(table)
