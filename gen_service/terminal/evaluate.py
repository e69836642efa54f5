"""Runs an evaluation in the foreground and shows what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from gen_service.errors import SpecError
from gen_service.evaluation.benchmarks import BENCHMARKS
from gen_service.evaluation.evaluate import Evaluation, evaluate
from gen_service.evaluation.evaluation_spec import EvaluationSpec
from gen_service.evaluation.stored import as_tree, load, save
from gen_service.evaluation.table import (
    MEASURED,
    NONE,
    NOTHING,
    Table,
    detail_table,
    notes,
    overlap_table,
    score_tables,
)
from gen_service.generation.pool import Stop
from gen_service.terminal.exit_codes import DONE, INTERRUPTED
from gen_service.terminal.live import JobView
from gen_service.terminal.run import run_async, with_signals

_LONGEST_NAME: Final = 24  # columns; a longer name of a model goes on in the next line


def run_evaluate(console: Console, spec: EvaluationSpec, beside: Sequence[str] = ()) -> int:
    """Run an evaluation to its end or to Ctrl-C, print and store its tables; the exit code.

    Args:
        beside: folders of stored evaluations whose rows are shown under this one's.
    """
    others = [load(folder) for folder in beside]
    evaluation = run_async(_watched(console, spec))
    if not evaluation.complete:
        done = ", ".join(result.problems.title for result in evaluation.results) or "none"
        console.print(f"stopped; benchmarks that are done: {done}. The same command continues", soft_wrap=True)
        return INTERRUPTED
    folder = save(evaluation, others)
    print_evaluation(console, as_tree(evaluation), others)
    console.print(f"evaluation: {folder}", soft_wrap=True)
    return DONE


def print_evaluation(console: Console, tree: dict[str, Any], others: Sequence[dict[str, Any]] = ()) -> None:
    """Print the tables of an evaluation, as it is stored."""
    tables = [*score_tables([tree, *others]), detail_table(tree), overlap_table(tree)]
    for table in tables:
        if table is not None:
            print_table(console, table)
    for note in notes(tree):
        console.print(Text(note, style="dim"))
    for result in tree["benchmarks"]:
        failed = result["verdicts"].get("error", 0)
        if failed:
            words = f"{result['title']}: {failed:,} samples got no answer from a server and count as wrong"
            console.print(Text(words, style="yellow"))


def make_benchmarks(given: Sequence[str], columns: dict[str, str]) -> list[str | dict[str, Any]]:
    """The benchmarks that a person named: one of the five, or `name=path` for problems of their own.

    Args:
        columns: of the problems of their own.

    Raises:
        SpecError: a name is none of the five.
    """
    return [_benchmark(text, columns) for text in given]


def _benchmark(text: str, columns: dict[str, str]) -> str | dict[str, Any]:
    name, sign, path = text.partition("=")
    if sign:
        return {"name": name, "path": path, "columns": columns}
    if name not in BENCHMARKS:
        raise SpecError("benchmark", name, f"one of {', '.join(BENCHMARKS)}; or NAME=PATH")
    return name


async def _watched(console: Console, spec: EvaluationSpec) -> Evaluation:
    stop = Stop()
    with_signals(console, stop, spec.pool.grace_s)
    async with JobView(console) as view:
        return await evaluate(spec, stop=stop, on_notice=view.notice, on_start=view.show)


def print_table(console: Console, table: Table) -> None:
    """Figures as a table, with the rows of one source under each other; then the sentences, a line each.

    The five benchmarks fit into 80 columns.
    """
    figures = len(table.head) - table.asides
    shown = RichTable(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for place, name in enumerate(table.head[:figures]):
        shown.add_column(name, justify="right" if place else "left", overflow="fold")
    for group in dict.fromkeys(table.groups or [""]):
        if group:
            shown.add_section()
            shown.add_row(Text(f"{group}:", style="dim"))
        rows = [row for place, row in enumerate(table.rows) if not table.groups or table.groups[place] == group]
        for row in rows:
            name = "\n".join(wrap(row[0], _LONGEST_NAME)) or row[0]
            shown.add_row(*map(Text, (name, *row[1:figures])), style="bold" if group == MEASURED else "")
    console.print(Text(table.title, style="italic"), shown, sep="\n")
    for place in range(figures, len(table.head)):
        lines = [(row[0], row[place]) for row in table.rows if row[place] not in (NONE, NOTHING)]
        if lines:
            console.print(Text(f"{table.head[place]}:", style="dim"))
        for name, words in lines:
            console.print(Text(f"  {name}: {words}"), soft_wrap=True)
    console.print()
