"""Judges stored answers again in the foreground: signals, a progress line, what changed, the exit code."""

from __future__ import annotations

import asyncio
import signal
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path

import orjson
from rich.console import Console
from rich.live import Live
from rich.text import Text

from gen_service.errors import SpecError
from gen_service.generation.pool import Stop
from gen_service.jobs.gold_problems import GoldProblem, gold_problems
from gen_service.jobs.judging import Choice, ReverifyProgress
from gen_service.jobs.reverify import ReverifyReport, reverify
from gen_service.jobs.verdict_changes import VerdictChanges, compare
from gen_service.settings import VerificationSettings
from gen_service.storage.answered_rows import Source
from gen_service.terminal.exit_codes import DONE, INTERRUPTED
from gen_service.terminal.live import COLOURS, LINE_S, REFRESH_S, duration
from gen_service.terminal.run import run_async
from gen_service.terminal.verify_report import REPORT_VERSION, as_tree, clipped, print_changes


def run_verify(
    console: Console,
    source: Source,
    verification: VerificationSettings,
    output: str | None,
    choice: Choice,
    show: int = 10,
    report_file: Path | None = None,
) -> int:
    """Verify to the end or to Ctrl-C, print what changed, return the exit code.

    Args:
        show: how many changed rows to print.
        report_file: where to write the same as JSON.
    """
    _check_report_file(report_file)
    report = run_async(_watched(console, source, verification, output, choice))
    changes = compare(source, report.place, show)
    if report_file is not None:
        report_file.write_bytes(orjson.dumps(as_tree(source, report, changes), option=orjson.OPT_INDENT_2))
    print_changes(console, changes)
    return _say_end(console, report, changes)


def _check_report_file(path: Path | None) -> None:
    if path is not None and not path.absolute().parent.is_dir():
        raise SpecError("json", str(path), "a file in a folder that exists")


async def _watched(
    console: Console, source: Source, verification: VerificationSettings, output: str | None, choice: Choice
) -> ReverifyReport:
    stop, progress = Stop(), ReverifyProgress()

    def ask() -> None:
        if not stop.asked:
            console.print("stopping: answers under way are finished, once more gives them up")
        stop.ask()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ask)

    def notice(words: str) -> None:
        console.print(Text(f"· {words}", style="dim"), soft_wrap=True)

    showing = asyncio.create_task(_show(console, progress))
    try:
        return await reverify(
            source, verification, output=output, choice=choice, stop=stop, on_notice=notice, progress=progress
        )
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


async def _show(console: Console, progress: ReverifyProgress) -> None:
    """One line that is kept up to date on a terminal, a line every 10 s elsewhere."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    if not console.is_terminal:
        while True:
            await asyncio.sleep(LINE_S)
            console.print(progress_line(progress, loop.time() - began), soft_wrap=True)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(progress_line(progress, loop.time() - began), refresh=True)
            await asyncio.sleep(REFRESH_S)


def progress_line(progress: ReverifyProgress, seconds: float) -> Text:
    """`1,200/20,000 rows  400.0 rows/s  ETA 47s  correct 700`; the rate is of the rows that were judged."""
    rate = progress.judged / seconds if seconds > 0 else 0.0
    left = None
    if progress.expected is not None and rate > 0:
        left = (progress.expected - progress.passed) / rate
    expected = "?" if progress.expected is None else f"{progress.expected:,}"
    words = f"{progress.passed:,}/{expected} rows  {rate:.1f} rows/s  CPU {duration(progress.cpu_s)}"
    line = Text(f"{words}  ETA {duration(left)}")
    for outcome, count in progress.outcomes.most_common():
        line.append(f"  {outcome} {count:,}", style=COLOURS.get(outcome, ""))
    return line


def _say_end(console: Console, report: ReverifyReport, changes: VerdictChanges) -> int:
    """Say how it ended and how to go on; the exit code."""
    progress = report.progress
    console.print(f"verdicts: {report.place}", soft_wrap=True)
    if report.complete and not progress.judged:
        console.print(f"nothing to do: {changes.rows:,} rows were judged by {report.verifier} before")
        return DONE
    rate = progress.judged / report.seconds if report.seconds else 0.0
    console.print(f"judged {progress.judged:,} rows in {report.seconds:.1f} s ({rate:.1f} rows/s, {report.verifier})")
    if report.complete:
        return DONE
    console.print("stopped: what was finished is kept, and the same command continues")
    return INTERRUPTED


def run_golds(console: Console, source: Source, verification: VerificationSettings, report_file: Path | None) -> int:
    """List the prompts whose gold cannot be graded against; the exit code."""
    _check_report_file(report_file)
    problems = run_async(_listed(console, source, verification))
    console.print(f"{len(problems):,} prompts with a gold that cannot be graded against")
    if report_file is not None:
        tree = {
            "version": REPORT_VERSION,
            "source": source.place,
            "problems": [asdict(problem) for problem in problems],
        }
        report_file.write_bytes(orjson.dumps(tree, option=orjson.OPT_INDENT_2))
    return DONE


async def _listed(console: Console, source: Source, verification: VerificationSettings) -> list[GoldProblem]:
    problems = []
    async with aclosing(gold_problems(source, verification)) as found:
        async for problem in found:
            problems.append(problem)
            words = f"{problem.prompt} (sample {problem.sample_id}): gold {clipped(problem.gold)}: {problem.reason}"
            console.print(words, markup=False, highlight=False, soft_wrap=True)
    return problems
