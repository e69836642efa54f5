"""A summary for people: tables, a length histogram in the terminal and as PNG, and traces printed readably."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gen_service.jobs.summary import Summary
from gen_service.storage.traces import read_traces

BINS = 16
BAR_WIDTH = 50


def print_summary(console: Console, summary: Summary, title: str) -> None:
    """Print counts, verdicts, pass@k, lengths and retries, then the histogram."""
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in summary_rows(summary):
        table.add_row(name, value)
    console.print(table)
    if len(summary.tokens):
        console.print(Text("completion tokens", style="bold"))
        for bar in histogram_lines(summary.tokens):
            console.print(bar, highlight=False, markup=False)


def summary_rows(summary: Summary) -> Iterator[tuple[str, str]]:
    """(name, value) lines of the summary table."""
    yield "rows", f"{summary.rows:,}"
    if summary.skipped:
        reasons = sorted(summary.skipped.items(), key=lambda item: -item[1])
        yield "samples not needed", ", ".join(f"{reason} {count:,}" for reason, count in reasons)
    yield "prompts judged", f"{len(summary.prompts):,}"
    if summary.rejected:
        yield "prompt rows set aside", f"{summary.rejected:,} (dead_letter.jsonl)"
    yield "verdicts", ", ".join(f"{name} {count:,}" for name, count in summary.verdicts.most_common()) or "-"
    most = summary.samples_per_prompt
    for k in sorted({1, most} - {0}):
        share = summary.pass_at(k)
        yield f"pass@{k}", "-" if share is None else f"{share:.3f}"
    for source, (samples, correct) in sorted(summary.sources.items())[:12]:
        yield f"  {source}", f"{correct / samples:.3f} of {samples:,} samples"
    percentiles = summary.token_percentiles([50, 90, 99])
    if percentiles:
        yield "tokens p50 / p90 / p99", " / ".join(f"{value:,.0f}" for value in percentiles)
        yield "tokens in all", f"{int(summary.tokens.sum()):,}"
    if summary.truncated_share is not None:
        yield "truncated", f"{summary.truncated_share:.1%}"
    yield "failed attempts", ", ".join(f"{cause} {count:,}" for cause, count in summary.retries.most_common()) or "none"
    if summary.continued:
        yield "continued from their tokens", f"{summary.continued:,}"


def histogram_lines(tokens: np.ndarray[Any, Any]) -> list[str]:
    """The lengths as text: one line a bin, from its first to its last token count."""
    counts, edges = np.histogram(tokens, bins=_edges(tokens))
    widest = max(int(counts.max()), 1)
    return [
        f"{int(low):>7,} - {int(high) - 1:>7,}  {'█' * round(BAR_WIDTH * int(count) / widest):<{BAR_WIDTH}} {count:,}"
        for count, low, high in zip(counts, edges, edges[1:], strict=False)
    ]


def save_histogram(summary: Summary, path: Path, title: str) -> None:
    """Write the length histogram as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.hist(summary.tokens, bins=_edges(summary.tokens).tolist(), color="#3b6ea5", edgecolor="white")
    for percent, value in zip((50, 90, 99), summary.token_percentiles([50, 90, 99]), strict=False):
        axes.axvline(value, color="#b5462f", linestyle="--", linewidth=1)
        axes.annotate(f"p{percent}", (value, axes.get_ylim()[1]), xytext=(3, -12), textcoords="offset points")
    axes.set(title=title, xlabel="completion tokens", ylabel="completions")
    figure.savefig(path, dpi=120)


def print_traces(console: Console, path: str, count: int, verdicts: str | None = None) -> None:
    """Print the first traces of a job: the question, the reasoning, the answer and the verdict."""
    for row in islice(read_traces(path, verdicts=verdicts), count):
        console.print(Panel(_trace_text(row), title=f"{row['prompt_id']} · sample {row['sample_index']}"))


def _trace_text(row: dict[str, Any]) -> Text:
    text = Text()
    for message in row["messages"]:
        text.append(f"{message['role']}: ", style="bold").append(f"{message['content']}\n")
    if row["error"] is not None:
        return text.append(f"error: {row['error']}", style="red")
    if row["reasoning"]:
        text.append("\nreasoning\n", style="bold").append(f"{row['reasoning'].strip()}\n", style="dim")
    text.append("\nanswer\n", style="bold").append(f"{row['content'].strip()}\n")
    text.append(f"\n{row['verdict']}", style="green" if row["verdict"] == "correct" else "yellow")
    text.append(f"  extracted {row['extracted']!r}, gold {row['answer']!r} ({row['verdict_reason']}); ")
    text.append(f"{row['completion_tokens']} tokens, {row['finish_reason']}, {row['endpoint']}")
    return text


def _edges(tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    low, high = int(tokens.min()), int(tokens.max()) + 1
    return np.unique(np.linspace(low, high, min(BINS, high - low) + 1).astype(int))
