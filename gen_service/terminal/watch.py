"""Shows a job of a service until it ends: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gen_service.remote.client import ServiceClient
from gen_service.terminal.exit_codes import DONE, FAILED
from gen_service.terminal.live import COLOURS, LINE_S, duration
from gen_service.wire.jobs import JobEventView, JobView
from gen_service.wire.states import FINAL

STATE_COLOURS = {"completed": "green", "running": "cyan", "failed": "red", "expired": "red", "cancelled": "yellow"}


async def watch_job(console: Console, service: ServiceClient, job_id: str) -> int:
    """Show a job until it is final; the exit code: 0 when it completed, else 1."""
    with JobScreen(console) as screen:
        view = await service.watch(job_id, screen.show, screen.tell)
    say_end(console, view)
    return DONE if view.state == "completed" else FAILED


class JobScreen:
    """What is shown of one job. Use as a context manager around the watching.

    Args:
        console: where to; a live view when it is a terminal, else a line every 10 s.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._line_at = asyncio.get_running_loop().time()

    def __enter__(self) -> JobScreen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, view: JobView) -> None:
        """The job as it is now."""
        if self._live is not None:
            self._live.update(job_view(view), refresh=True)
            return
        now = asyncio.get_running_loop().time()
        if view.rates is not None and now - self._line_at >= LINE_S:
            self._line_at = now
            self._console.print(job_line(view), soft_wrap=True, markup=False, highlight=False)

    def tell(self, event: JobEventView) -> None:
        """Print a state or a notice, with the local time it is of."""
        if event.type == "progress":
            return
        at = f"{event.at.astimezone():%H:%M:%S}"
        if event.type == "state":
            state, reason = str(event.data.get("to")), event.data.get("reason")
            words = Text(f"{at} ").append(state, style=STATE_COLOURS.get(state, ""))
            words.append(f": {readable(reason)}" if reason else "")
        else:
            words = Text(f"{at} · {readable(event.data.get('words'))}", style="dim")
        self._console.print(words, soft_wrap=True)


def job_view(view: JobView) -> Group:
    """The live view: a bar, the verdicts, the servers."""
    counts, rates = view.counts, view.rates
    top = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=counts.samples or None, completed=counts.done, width=40)
    cells: list[RenderableType] = [Text(view.state, style=STATE_COLOURS.get(view.state, "")), bar, done_of(view)]
    if rates is not None:
        cells += [f"{rates.traces_per_s:.1f} traces/s", f"{rates.tokens_per_s:,.0f} tokens/s"]
        cells.append(f"ETA {duration(rates.eta_s)}")
    top.add_row(*cells)
    verdicts = Text("  ").join(
        Text(f"{outcome} {count:,}", style=COLOURS.get(outcome, ""))
        for outcome, count in sorted(counts.verdicts.items(), key=lambda item: -item[1])
    )
    servers = [
        Text(f"{server.url} {server.state} {server.job_in_flight} of {server.in_flight}/{server.limit}")
        for server in view.servers
    ]
    return Group(
        top, verdicts, Text(f"in flight {counts.in_flight}, waiting {counts.waiting}{skipped(view)}"), *servers
    )


def job_line(view: JobView) -> str:
    """The same in one line of plain text."""
    counts, rates = view.counts, view.rates
    parts = [f"{view.state} {done_of(view)} rows"]
    if rates is not None:
        parts.append(
            f"{rates.traces_per_s:.1f} traces/s  {rates.tokens_per_s:,.0f} tokens/s  ETA {duration(rates.eta_s)}"
        )
    parts.append(f"in flight {counts.in_flight}, waiting {counts.waiting}{skipped(view)}")
    parts += [f"{outcome}={count:,}" for outcome, count in sorted(counts.verdicts.items())]
    return "  ".join(parts)


def say_end(console: Console, view: JobView) -> None:
    """Say how a job ended and how to get what it made."""
    words = Text(f"{view.id} ").append(view.state, style=STATE_COLOURS.get(view.state, ""))
    words.append(f": {readable(view.reason)}" if view.reason else "")
    console.print(words, soft_wrap=True)
    console.print(job_line(view), soft_wrap=True, markup=False, highlight=False)
    if view.counts.published and view.state in FINAL:
        console.print(f"gen-service download {view.id}", soft_wrap=True, highlight=False)


def readable(words: object) -> str:
    """Words from elsewhere without characters that steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in str(words))


def skipped(view: JobView) -> str:
    """How many samples are not needed; nothing when all are."""
    number = sum(view.counts.skipped.values())
    return f", not needed {number:,}" if number else ""


def done_of(view: JobView) -> str:
    """Published rows of all samples, `?` while their number is not known."""
    samples = "?" if view.counts.samples is None else f"{view.counts.samples:,}"
    return f"{view.counts.published:,}/{samples}"
