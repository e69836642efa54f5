"""What a re-verification changed, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gen_service.jobs.reverify import ReverifyReport
from gen_service.jobs.verdict_changes import Example, VerdictChanges
from gen_service.storage.answered_rows import Source
from gen_service.terminal.live import COLOURS

REPORT_VERSION = 1
_SHOWN_CHARACTERS = 300


def print_changes(console: Console, changes: VerdictChanges) -> None:
    """Print the set in numbers, the table of changes and the examples."""
    table = Table(title="verdicts", show_header=False, title_justify="left")
    for name, value in changes_rows(changes):
        table.add_row(name, value)
    console.print(table)
    if changes.compared:
        console.print(_confusion(changes))
    for example in changes.examples:
        title = Text(f"{example.sample_id} · {example.part} row {example.row}")
        console.print(Panel(_example_text(example), title=title))


def changes_rows(changes: VerdictChanges) -> Iterator[tuple[str, str]]:
    """(name, value) lines of the table in numbers."""
    yield "rows in the set", f"{changes.rows:,}"
    yield "verdicts", ", ".join(f"{name} {count:,}" for name, count in changes.outcomes.most_common()) or "-"
    yield "decided by", ", ".join(f"{name} {count:,}" for name, count in changes.paths.most_common()) or "-"
    yield "without sympy", f"{changes.without_sympy:,} ({_share(changes.without_sympy, changes.rows)})"
    yield "CPU of the workers", f"{changes.cpu_s:.1f} s"
    if changes.compared:
        yield "changed", f"{changes.changed:,} of {changes.compared:,} ({_share(changes.changed, changes.compared)})"


def _confusion(changes: VerdictChanges) -> Table:
    table = Table(title="before -> after", title_justify="left")
    for name in ("before", "after"):
        table.add_column(name)
    for name in ("rows", "share"):
        table.add_column(name, justify="right")
    ordered = sorted(changes.changes.items(), key=lambda item: (item[0][0] == item[0][1], -item[1], item[0]))
    for (before, after), count in ordered:
        style = "dim" if before == after else COLOURS.get(after, "")
        table.add_row(before, after, f"{count:,}", _share(count, changes.compared), style=style)
    return table


def _example_text(example: Example) -> Text:
    text = Text(f"gold {clipped(example.gold)}\n")
    for name, verdict, extracted, reason in (
        ("before", example.before, example.before_extracted, example.before_reason),
        ("after", example.after, example.after_extracted, example.after_reason),
    ):
        text.append(f"{name:<6} ").append(verdict, style=COLOURS.get(verdict, "bold"))
        text.append(f"  extracted {clipped(extracted)} ({reason})\n")
    text.rstrip()
    return text


def clipped(words: str | None) -> str:
    """A text quoted, cut after 300 characters."""
    if words is None or len(words) <= _SHOWN_CHARACTERS:
        return repr(words)
    return f"{words[:_SHOWN_CHARACTERS]!r}... ({len(words):,} characters)"


def _share(count: int, whole: int) -> str:
    return f"{count / whole:.1%}" if whole else "-"


def as_tree(source: Source, report: ReverifyReport, changes: VerdictChanges) -> dict[str, Any]:
    """The report as JSON values."""
    progress = report.progress
    return {
        "version": REPORT_VERSION,
        "source": source.place,
        "verdicts": report.place,
        "verifier": report.verifier,
        "complete": report.complete,
        "run": {
            "rows": progress.judged,
            "seconds": report.seconds,
            "rows_per_s": progress.judged / report.seconds if report.seconds else 0.0,
            "cpu_s": progress.cpu_s,
            "verdicts": dict(progress.outcomes),
        },
        "set": {
            "rows": changes.rows,
            "verdicts": dict(changes.outcomes),
            "paths": dict(changes.paths),
            "without_sympy": changes.without_sympy,
            "cpu_s": changes.cpu_s,
        },
        "compared": changes.compared,
        "changed": changes.changed,
        "changes": [
            {"before": before, "after": after, "rows": count, "share": count / changes.compared}
            for (before, after), count in changes.changes.most_common()
        ],
        "examples": [asdict(example) for example in changes.examples],
    }
