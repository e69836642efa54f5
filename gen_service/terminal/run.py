"""Runs a job in the foreground: signals, the live view, the closing summary, the exit code."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from rich.console import Console

from gen_service.generation.pool import Stop
from gen_service.interpreter import settle_interpreter
from gen_service.jobs.job import JobSpec
from gen_service.jobs.runner import JobReport, generate
from gen_service.jobs.summary import summarize
from gen_service.terminal.exit_codes import DONE, FAILED, INTERRUPTED
from gen_service.terminal.live import JobView
from gen_service.terminal.report import print_summary

# One job makes hardly any cycles.
RARELY = (20_000, 50, 100)
Result = TypeVar("Result")


def run_async(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on uvloop where there is one."""
    settle_interpreter(thresholds=RARELY)
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def run_job(console: Console, spec: JobSpec) -> int:
    """Run a job to its end or to Ctrl-C, print what was published, return the exit code."""
    report = run_async(interruptible(console, spec))
    print_summary(console, summarize(report.folder), f"job {report.job_id}")
    return say_end(console, report)


async def watched(console: Console, spec: JobSpec, stop: Stop) -> JobReport:
    """Run a job under a live view."""
    async with JobView(console) as view:
        return await generate(spec, stop=stop, on_notice=view.notice, on_start=view.show)


async def interruptible(console: Console, spec: JobSpec) -> JobReport:
    """Run a job; SIGINT and SIGTERM ask it to stop, the second time at once."""
    stop = Stop()
    with_signals(console, stop, spec.pool.grace_s)
    return await watched(console, spec, stop)


def with_signals(console: Console, stop: Stop, grace_s: float) -> None:
    """SIGINT and SIGTERM ask `stop`, for as long as the loop runs."""

    def ask() -> None:
        if not stop.asked:
            console.print(f"stopping: running samples get {grace_s:g} s, once more stops at once")
        stop.ask()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ask)


def say_end(console: Console, report: JobReport) -> int:
    """Say how it ended and how to go on; the exit code."""
    console.print(f"traces: {report.folder}", soft_wrap=True)
    if report.complete and report.published.rows == 0:
        console.print(f"no usable prompt: {report.published.rejected} rows were set aside, see dead_letter.jsonl")
        console.print(f"the first: {report.progress.first_rejected}", markup=False)
        return FAILED
    if report.complete:
        if report.progress.published == 0:
            console.print("nothing to do: every sample was published before")
        return DONE
    console.print(f"stopped with {report.progress.interrupted} samples given up; the same command continues")
    return INTERRUPTED
