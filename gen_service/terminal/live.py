"""Shows a running job: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gen_service.jobs.rates import Rate, Rates
from gen_service.jobs.runner import RunningJob

REFRESH_S = 0.5
LINE_S = 10.0

COLOURS = {"correct": "green", "incorrect": "yellow", "error": "red"}


class JobView:
    """Shows one job at a time until closed. Use as an async context manager around the jobs.

    Args:
        console: where to; a live view when it is a terminal, else a line every 10 s.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running: RunningJob | None = None
        self._rates = Rates()
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._task: asyncio.Task[None] | None = None

    def show(self, running: RunningJob) -> None:
        """The job to show, instead of the one before."""
        self._running, self._rates = running, Rates()
        self._rates.at(asyncio.get_running_loop().time(), running.progress)

    def notice(self, words: str) -> None:
        """Print a line above the view."""
        self._console.print(Text(f"· {words}", style="dim"), soft_wrap=True)

    async def __aenter__(self) -> JobView:
        if self._live is not None:
            self._live.start()
        self._task = asyncio.create_task(self._refresh())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._live is not None:
            self._live.stop()

    async def _refresh(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(REFRESH_S if self._live else LINE_S)
            if self._running is None:
                continue
            rate = self._rates.at(loop.time(), self._running.progress)
            if self._live is not None:
                self._live.update(view(self._running, rate), refresh=True)
            else:
                self._console.print(line(self._running, rate), soft_wrap=True)


def view(running: RunningJob, rate: Rate) -> Group:
    """The live view: a bar, the verdicts, the servers."""
    progress = running.progress
    top = Table.grid(padding=(0, 2))
    top.add_row(
        ProgressBar(total=progress.expected or None, completed=progress.done, width=40),
        f"{progress.done:,}/{_total(running)}",
        f"{rate.rows:.1f} traces/s",
        f"{rate.tokens:,.0f} tokens/s",
        f"ETA {duration(rate.left_s)}",
    )
    verdicts = Text("  ").join(
        Text(f"{outcome} {count:,}", style=COLOURS.get(outcome, ""))
        for outcome, count in sorted(progress.outcomes.items(), key=lambda item: -item[1])
    )
    return Group(top, verdicts, *_servers(running))


def line(running: RunningJob, rate: Rate) -> str:
    """The same in one line of plain text."""
    progress = running.progress
    verdicts = " ".join(f"{outcome}={count}" for outcome, count in sorted(progress.outcomes.items()))
    return (
        f"{progress.done}/{_total(running)} samples  {rate.rows:.1f} traces/s  {rate.tokens:.0f} tokens/s  "
        f"ETA {duration(rate.left_s)}  {verdicts}  " + "  ".join(text.plain for text in _servers(running))
    )


def duration(seconds: float | None) -> str:
    """Seconds as people read them: `1h02m`, `3m05s`, `12s`."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def _total(running: RunningJob) -> str:
    expected = running.progress.expected
    return "?" if expected is None else f"{expected:,}"


def _servers(running: RunningJob) -> list[Text]:
    fleet = running.fleet
    if fleet is None:
        return []
    total = Text(f"in flight {fleet.in_flight}/{fleet.places.limit}, waiting {fleet.waiting}")
    rows = [
        Text(f"{endpoint.url} {endpoint.state} {endpoint.in_flight}/{int(endpoint.limit)}, {endpoint.completed:,} done")
        for endpoint in fleet.endpoints
    ]
    return [total, *rows]
