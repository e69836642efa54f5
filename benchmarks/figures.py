"""Figures: what was measured, as a ratio to a baseline of the same run, and the one table that shows them."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import orjson
from rich.console import Console
from rich.table import Table

# Narrower than this the table loses columns; a pipe has no width of its own.
WIDTH = 180
# Where results are written, in the current folder; not under version control.
RESULTS = Path("bench-results")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured ratio.

    Attributes:
        benchmark, name: what it is.
        value: ours, a median over the repeats, with its `unit`.
        baseline: the same of the baseline; None where the value is a count by itself.
        against: what the baseline is.
        ratio: the median of the repeats' own ratios (not the ratio of the medians); None without a baseline.
        target: what is wanted, in words; empty for none.
        holds: whether it does; None without a target.
        repeats: how often it was measured.
    """

    benchmark: str
    name: str
    value: float
    unit: str
    baseline: float | None = None
    against: str = ""
    ratio: float | None = None
    target: str = ""
    holds: bool | None = None
    repeats: int = 1


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on a figure's ratio, or on its value where it has no ratio."""

    at_most: float | None = None
    at_least: float | None = None

    def words(self, unit: str = "") -> str:
        """Such as `<= 4`."""
        bound, sign = (self.at_most, "<=") if self.at_most is not None else (self.at_least, ">=")
        return f"{sign} {bound:g}{unit}"

    def holds(self, value: float) -> bool:
        """Whether the value keeps the bound."""
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)


def compared(
    benchmark: str,
    name: str,
    unit: str,
    pairs: Sequence[tuple[float, float]],
    against: str,
    target: Target | None = None,
) -> Figure:
    """A figure from (ours, baseline) of each repeat."""
    ratio = median(ours / baseline for ours, baseline in pairs)
    return Figure(
        benchmark,
        name,
        median(ours for ours, _ in pairs),
        unit,
        median(baseline for _, baseline in pairs),
        against,
        ratio,
        target.words() if target else "",
        target.holds(ratio) if target else None,
        len(pairs),
    )


def counted(
    benchmark: str, name: str, unit: str, values: Sequence[float], target: Target | None = None, against: str = ""
) -> Figure:
    """A figure without a baseline: the median of the repeats."""
    value = median(values)
    words = target.words(f" {unit}") if target else ""
    holds = target.holds(value) if target else None
    return Figure(benchmark, name, value, unit, None, against, None, words, holds, len(values))


def show(figures: Iterable[Figure], console: Console | None = None) -> None:
    """Print one table."""
    table = Table(title="benchmarks", title_justify="left")
    table.add_column("benchmark", no_wrap=True)
    table.add_column("figure")
    for column in ("ours", "baseline", "ratio", "target", ""):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("baseline is")
    for one in figures:
        holds = "" if one.holds is None else ("ok" if one.holds else "MISSED")
        baseline = "" if one.baseline is None else f"{number(one.baseline)} {one.unit}"
        ratio = "" if one.ratio is None else f"{one.ratio:.3g}"
        table.add_row(
            one.benchmark, one.name, f"{number(one.value)} {one.unit}", baseline, ratio, one.target, holds, one.against
        )
    (console or Console(width=max(WIDTH, Console().width))).print(table)


def number(value: float) -> str:
    """Three significant digits, whole numbers as they are."""
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def save(figures: Iterable[Figure], folder: Path, arguments: Sequence[str]) -> Path:
    """Write bench-results/<date>.json: the figures, and the machine they are from."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    document = {
        "version": 1,
        "at": now.isoformat(timespec="seconds"),
        "arguments": list(arguments),
        "machine": {"processor": platform.machine(), "python": platform.python_version(), "system": platform.system()},
        "figures": [asdict(figure) for figure in figures],
    }
    path = folder / f"{now:%Y-%m-%dT%H%M%SZ}.json"
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return path
