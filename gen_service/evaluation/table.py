"""DeepScaleR's table with measured rows beside reported ones, and what stands behind the measured ones; as Markdown
too. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gen_service.evaluation.benchmarks import BENCHMARKS
from gen_service.evaluation.reported import REPORTED, SOURCES, Reported
from gen_service.records import Outcome

MEASURED = "measured here"
NONE = "-"
NOTHING = "none"

# Verdicts in the order in which they are shown; each that occurred gets its count.
_VERDICTS: tuple[Outcome, ...] = (
    "correct",
    "incorrect",
    "no_answer",
    "truncated",
    "unparsable",
    "timeout",
    "error",
    "ungradable",
    "unverified",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure in percent, and its interval where it was measured."""

    percent: float
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.percent:.1f}"
        return f"{self.percent:.1f}\n{self.interval[0]:.1f}-{self.interval[1]:.1f}"


@dataclass(frozen=True, slots=True)
class Row:
    """A model in the table.

    Attributes:
        model: its name, and the evaluation's where it was measured.
        cells: by benchmark.
        average: over the five.
        source: MEASURED, or who reports it.
    """

    model: str
    cells: dict[str, Cell]
    average: Cell | None
    source: str = MEASURED

    @property
    def measured(self) -> bool:
        """Whether the row was measured here."""
        return self.source == MEASURED

    @property
    def group(self) -> str:
        """What it has in common with other rows: where its figures are from."""
        return self.source if self.measured else f"reported by {self.source}"

    def texts(self, names: Sequence[str]) -> list[str]:
        """The row as texts: the model, the benchmarks, the average."""
        cells = [str(self.cells[name]) if name in self.cells else NONE for name in names]
        return [self.model, *cells, str(self.average) if self.average else NONE]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under one head.

    Attributes:
        rows: texts; a text of several lines is a figure, and under it what belongs to it.
        groups: where each row's figures are from; empty where all are from here.
        asides: how many of the last columns hold sentences instead of figures.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    groups: list[str] = field(default_factory=list)
    asides: int = 0


def score_tables(trees: Sequence[dict[str, Any]]) -> Iterator[Table]:
    """The tables of scores: DeepScaleR's when one of its five benchmarks was measured, and one of other benchmarks.

    Args:
        trees: stored evaluations, as `stored.as_tree` makes them; measured rows stand in this order.
    """
    rows = [measured_row(tree) for tree in trees]
    names = list(dict.fromkeys(name for row in rows for name in row.cells))
    own = [name for name in names if name not in BENCHMARKS]
    if len(own) < len(names):
        titles = [benchmark.title for benchmark in BENCHMARKS.values()]
        shown = [*(row for row in rows if row.cells.keys() & BENCHMARKS.keys()), *map(reported_row, REPORTED)]
        lines = [row.texts(list(BENCHMARKS)) for row in shown]
        yield Table("pass@1, percent", ["Model", *titles, "Avg."], lines, [row.group for row in shown])
    if own:
        lines = [[row.model, *(str(row.cells.get(name, NONE)) for name in own)] for row in rows]
        yield Table("pass@1, percent: other problems", ["Model", *own], lines)


def measured_row(tree: dict[str, Any]) -> Row:
    """The row of a stored evaluation."""
    cells = {result["name"]: cell for result in tree["benchmarks"] if (cell := _cell(result)) is not None}
    average = tree["average"]
    name, of = tree["name"], tree["model"] or "unnamed model"
    model = name if name == of else f"{of} ({name})"
    return Row(model, cells, None if average is None else Cell(100 * average["pass_at_1"], _percent(average)))


def reported_row(reported: Reported) -> Row:
    """The row of what others report."""
    average = None if reported.average is None else Cell(reported.average)
    return Row(
        reported.model, {name: Cell(value) for name, value in reported.percent.items()}, average, reported.source
    )


def detail_table(tree: dict[str, Any]) -> Table:
    """What stands behind an evaluation's scores: one line a benchmark, with every row accounted for."""
    head = ["Benchmark", "Problems", "k", "pass@1", "pass@k", "At limit", "Mean tokens", "Verdicts", "Not counted"]
    return Table(f"evaluation {tree['name']}", head, [_detail(result) for result in tree["benchmarks"]], asides=2)


def steps_table(trees: Mapping[int, dict[str, Any]]) -> Table:
    """The evaluations of a run's checkpoints: one line a step.

    Args:
        trees: by step; each of the same benchmarks.
    """
    results = next(iter(trees.values()))["benchmarks"]
    head = ["Step", *(result["title"] for result in results), *(["Avg."] if len(results) > 1 else []), "Mean tokens"]
    return Table("pass@1, percent, by training step", head, [_step(step, tree) for step, tree in trees.items()])


def overlap_table(tree: dict[str, Any]) -> Table | None:
    """Which problems were seen in training; None when nothing was compared."""
    results = [result for result in tree["benchmarks"] if result["overlap"] is not None]
    if not results:
        return None
    settings = tree["spec"]["overlap"]
    bound = "" if settings["common"] is None else f", in at most {settings['common']} training prompts"
    title = f"overlap with {tree['training_compared']:,} training prompts: {settings['words']} words in a row{bound}"
    head = ["Benchmark", "Overlap", "Whole", "pass@1", "Without", "For example"]
    return Table(title, head, [_overlap(result) for result in results], asides=1)


def markdown(tree: dict[str, Any], beside: Sequence[dict[str, Any]] = ()) -> str:
    """The evaluation as a page.

    Args:
        beside: stored evaluations whose rows go under this one's.
    """
    tables = [*score_tables([tree, *beside]), detail_table(tree), overlap_table(tree)]
    parts = [_markdown_table(table) for table in tables if table is not None]
    return "\n".join([f"# Evaluation {tree['name']}", "", *parts, *_notes(tree), ""])


def notes(tree: dict[str, Any]) -> list[str]:
    """How the figures came about, in sentences."""
    spec = tree["spec"]
    sampling, interval = spec["sampling"], spec["interval"]
    return [
        f"Sampled at temperature {sampling['temperature']:g}, top_p {sampling['top_p']:g}, at most "
        f"{sampling['max_tokens']:,} tokens; judged by {tree['verifier'] or 'no verifier'}, "
        f"{spec['verification']['policy']}.",
        f"Under each figure its interval, which holds {interval['confidence']:.0%}: bootstrap over problems, "
        f"{interval['resamples']:,} draws. Where all problems came out alike it knows no others, and the interval is "
        "that one value.",
        "What was not seen to be right counts as wrong, also timeout, error and ungradable, as the field's graders "
        "have it; `judged` is the figure of the judged samples alone, where it differs.",
        *(f"Reported by {source}: {words}." for source, words in SOURCES.items() if _has_five(tree)),
    ]


def _has_five(tree: dict[str, Any]) -> bool:
    return any(result["name"] in BENCHMARKS for result in tree["benchmarks"])


def _notes(tree: dict[str, Any]) -> Iterable[str]:
    return [f"- {note}" for note in notes(tree)]


def _cell(result: dict[str, Any]) -> Cell | None:
    score = result["score"]
    return None if score["pass_at_1"] is None else Cell(100 * score["pass_at_1"], _percent(score))


def _with_judged(result: dict[str, Any]) -> str:
    """pass@1, and what it would be without the samples that were not judged, where there are any."""
    judged, all_of_them = result["judged_pass_at_1"], result["score"]["pass_at_1"]
    words = str(_cell(result) or NONE)
    if judged is None or f"{100 * judged:.1f}" == f"{100 * all_of_them:.1f}":
        return words
    return f"{words}\njudged {100 * judged:.1f}"


def _percent(score: dict[str, Any]) -> tuple[float, float] | None:
    interval = score["interval"]
    return None if interval is None else (100 * interval[0], 100 * interval[1])


def _detail(result: dict[str, Any]) -> list[str]:
    verdicts = result["verdicts"]
    shown = ", ".join(f"{name} {verdicts[name]:,}" for name in _VERDICTS if verdicts.get(name))
    aside = [
        f"{count:,} {words}"
        for count, words in (
            (len(result["not_counted"]), "problems without a gold"),
            (result["rejected"], "rows that cannot be used"),
            (result["missing"], "samples missing"),
        )
        if count
    ]
    pass_at = "\n".join(f"@{k} {100 * value:.1f}" for k, value in result["score"]["pass_at"].items() if k != "1")
    truncated, mean = result["truncated_share"], result["mean_tokens"]
    return [
        result["title"],
        f"{result['score']['problems']:,}",
        str(result["samples"]),
        _with_judged(result),
        pass_at or NONE,
        NONE if truncated is None else f"{truncated:.1%}",
        NONE if mean is None else f"{mean:,.0f}",
        shown or NONE,
        ", ".join(aside) or NOTHING,
    ]


def _step(step: int, tree: dict[str, Any]) -> list[str]:
    results = tree["benchmarks"]
    cells = [_cell(result) for result in results]
    percents = [cell.percent for cell in cells if cell is not None]
    lengths = [result["mean_tokens"] for result in results if result["mean_tokens"] is not None]
    average = [f"{sum(percents) / len(percents):.1f}" if percents else NONE] if len(results) > 1 else []
    shown = [NONE if cell is None else str(cell) for cell in cells]
    return [f"{step:,}", *shown, *average, f"{sum(lengths) / len(lengths):,.0f}" if lengths else NONE]


def _overlap(result: dict[str, Any]) -> list[str]:
    found = result["overlap"]
    whole = sum(overlap["whole"] for overlap in found.values())
    example = next(iter(found.values()), None)
    words = NONE if example is None else f'"{example["run"][:80]}" ({example["example"]})'
    asked = result["score"]["problems"] + len(result["not_counted"])
    scores = [result["score"], result["clean"]]
    percents = [NONE if score["pass_at_1"] is None else f"{100 * score['pass_at_1']:.1f}" for score in scores]
    return [result["title"], f"{len(found):,} of {asked:,}", f"{whole:,}", *percents, words]


def _markdown_table(table: Table) -> str:
    head = [*table.head, "Source"] if table.groups else table.head
    rows = [[*row, group] for row, group in zip(table.rows, table.groups, strict=True)] if table.groups else table.rows
    lines = [f"## {table.title}", "", _line(head), _line(["---"] * len(head))]
    return "\n".join([*lines, *map(_line, rows), ""])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(_in_one_line(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _in_one_line(text: str) -> str:
    """The figure, and in brackets what belongs to it."""
    figure, *more = text.split("\n")
    return f"{figure} ({'; '.join(more)})" if more else figure
