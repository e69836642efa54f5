"""Curves over training steps, from one or more runs: pass@1 or reward, and response length.

What the training measured is in the run's `metrics.jsonl`, what its checkpoints were found to be worth in its
`evaluations/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from gen_service.errors import SpecError
from gen_service.evaluation.run_evaluations import evaluations_of

METRICS: Final = "metrics.jsonl"
# The first of these that any run has is shown on top, and below it the first of the lengths: of the evaluations, which
# are all of the same problems; else of the rollouts, whose share that was right is pass@1 on the training problems.
EVALUATED: Final = "eval/pass_at_1"
EVALUATED_LENGTH: Final = "eval/mean_tokens"
QUALITY: Final = (EVALUATED, "verdicts/correct", "reward")
LENGTH: Final = (EVALUATED_LENGTH, "completions/mean_length")
STAGE: Final = "stage"
# What a line holds besides metrics.
_BOOKS: Final = frozenset({"step", "seconds", STAGE})


@dataclass(frozen=True, slots=True)
class Series:
    """One metric of one run: (step, value) in rising steps."""

    run: str
    metric: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Curves:
    """What is drawn.

    Attributes:
        panels: the metrics, each with one series for each run that has it.
        stages: steps at which a stage begins, by run; DeepScaleR's context grew at 1,040 and 1,520.
    """

    panels: tuple[tuple[str, tuple[Series, ...]], ...]
    stages: dict[str, tuple[int, ...]]

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last step that any panel shows."""
        steps = [step for _, series in self.panels for one in series for step, _ in one.points]
        return min(steps), max(steps)


def read_curves(folders: Sequence[str], metrics: Sequence[str] = ()) -> Curves:
    """Read the runs' metrics and evaluations.

    An evaluation has `eval/pass_at_1`, which is the mean of its benchmarks, `eval/<benchmark>/pass_at_1`, and the same
    of `mean_tokens`.

    Args:
        folders: run folders, each with a metrics.jsonl.
        metrics: what to draw, from top to bottom; by default the first of QUALITY and of LENGTH that a run has.

    Raises:
        SpecError: a run has no metrics, a line that is no metrics, or no run has a metric that was asked for.
    """
    runs = {name: _lines(folder) + _evaluated(folder) for folder, name in zip(folders, _names(folders), strict=True)}
    there = sorted(
        {key for lines in runs.values() for line in lines for key in line.keys() - _BOOKS if _is_number(line[key])}
    )
    wanted = list(metrics) or [_first(QUALITY, there), _first(LENGTH, there)]
    panels = tuple((metric, tuple(_series(runs, metric))) for metric in wanted)
    for metric, series in panels:
        if not series and (metrics or not any(found for _, found in panels)):
            raise SpecError("metric", metric, f"one that a run has: {', '.join(there) or 'there is none'}")
    drawn = tuple(panel for panel in panels if panel[1])
    return Curves(drawn, {name: _stages(lines) for name, lines in runs.items()})


def running_mean(points: Sequence[tuple[int, float]], window: int) -> list[tuple[int, float]]:
    """The mean of the values of the last `window` steps at each step; `points` in rising steps."""
    means, begin = [], 0
    for place, (step, _) in enumerate(points):
        while points[begin][0] <= step - window:
            begin += 1
        last = [value for _, value in points[begin : place + 1]]
        means.append((step, sum(last) / len(last)))
    return means


def save_curves(curves: Curves, path: Path, window: int = 1) -> None:
    """Draw the curves as PNG, one panel below the other over the same steps.

    Args:
        window: steps in the running mean that is drawn over the values themselves; 1 draws the values alone.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2 * len(curves.panels)), layout="constrained")
    every = figure.subplots(len(curves.panels), 1, sharex=True, squeeze=False)
    colours = {run: f"C{place}" for place, run in enumerate(curves.stages)}
    for axes, (metric, series) in zip(every[:, 0], curves.panels, strict=True):
        for one in series:
            _draw(axes, one, colours[one.run], window)
        for run, steps in curves.stages.items():
            for step in steps:
                axes.axvline(step, color=colours[run], linestyle=":", linewidth=1)
        axes.set_ylabel(metric)
        axes.grid(alpha=0.3)
    every[0, 0].legend(fontsize="small")
    every[-1, 0].set_xlabel("training steps")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=120)


def _draw(axes: Any, series: Series, colour: str, window: int) -> None:
    steps, values = zip(*series.points, strict=True)
    marker = "o" if len(steps) <= 30 else None
    faint = 1.0 if window == 1 else 0.25
    label = series.run if window == 1 else None
    axes.plot(steps, values, color=colour, marker=marker, markersize=3, alpha=faint, label=label)
    if window > 1:
        steps, values = zip(*running_mean(series.points, window), strict=True)
        axes.plot(steps, values, color=colour, label=series.run)


def _first(names: Sequence[str], there: Sequence[str]) -> str:
    return next((name for name in names if name in there), names[-1])


def _names(folders: Sequence[str]) -> list[str]:
    """The folders' own names; with their parents where two are alike."""
    short = [Path(folder).resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(Path(folder)) for folder in folders]
    if len(set(names)) != len(names):
        raise SpecError("run", folders, "each run once")
    return names


def _lines(folder: str) -> list[dict[str, Any]]:
    """The metrics of a run by lines; a last line that a killed run left half-written is passed over."""
    path = Path(folder) / METRICS
    try:
        written = path.read_bytes().split(b"\n")
    except OSError as error:
        raise SpecError("run", folder, f"a run's folder, one that holds {METRICS} ({error.strerror})") from error
    lines = []
    for number, text in enumerate(written, 1):
        if not text.strip():
            continue
        line = _parsed(text)
        if line is not None:
            lines.append(line)
        elif number < len(written):
            raise SpecError("run", f"{path} line {number}", "a JSON object with a whole number `step`")
    return lines


def _evaluated(folder: str) -> list[dict[str, Any]]:
    """A line for each evaluated checkpoint."""
    return [{"step": step} | _figures(tree["benchmarks"]) for step, tree in evaluations_of(Path(folder)).items()]


def _figures(benchmarks: Sequence[dict[str, Any]]) -> dict[str, float]:
    shares = {one["name"]: one["score"]["pass_at_1"] for one in benchmarks if one["score"]["pass_at_1"] is not None}
    lengths = {one["name"]: one["mean_tokens"] for one in benchmarks if one["mean_tokens"] is not None}
    figures: dict[str, float] = {}
    for metric, values in ((EVALUATED, shares), (EVALUATED_LENGTH, lengths)):
        figures |= {metric.replace("/", f"/{name}/"): value for name, value in values.items()}
        if values:
            figures[metric] = sum(values.values()) / len(values)
    return figures


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        line = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def _series(runs: dict[str, list[dict[str, Any]]], metric: str) -> Iterable[Series]:
    """A step that stands twice counts as it was written last."""
    for run, lines in runs.items():
        points = {line["step"]: float(line[metric]) for line in lines if _is_number(line.get(metric))}
        if points:
            yield Series(run, metric, tuple(sorted(points.items())))


def _stages(lines: list[dict[str, Any]]) -> tuple[int, ...]:
    """The first step of each stage after the first."""
    begins: list[int] = []
    before = None
    for line in sorted(lines, key=lambda line: int(line["step"])):
        stage = line.get(STAGE)
        if stage is None:
            continue
        if before is not None and stage != before:
            begins.append(line["step"])
        before = stage
    return tuple(begins)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
