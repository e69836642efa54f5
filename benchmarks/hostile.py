"""Hostile inputs against the real verifier: every check ends in a verdict, within its budgets, and harms nobody.

Exit code 1 when a promise is broken: a check that raised, that took more than its budget, that was called right, a
payload that ran, a worker above its memory limit, or an honest answer that was not verified afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.figures import WIDTH
from benchmarks.hostile_inputs import Hostile, hostile_checks
from gen_service.records import NO_TOKENS, Completion, Prompt, Sample, Trace, Verdict
from gen_service.settings import VerificationSettings
from gen_service.terminal.run import run_async
from gen_service.verification.verify import Verifier

NAME = "hostile"
PAUSE_S = 0.1
# The kernel's CPU timer has a grain of up to 10 ms, and what a worker counts includes reading and replying.
GRAIN_S = 0.1
_ANSWERED = frozenset({"incorrect", "unparsable", "no_answer", "truncated", "timeout", "error"})
_HONEST = (("2x+2", r"\boxed{2(x+1)}", "correct"), ("2x+2", r"\boxed{2(x-1)}", "incorrect"), ("7", "#### 7", "correct"))


@dataclass(slots=True)
class Watch:
    """What was seen from the side while checks ran.

    Attributes:
        longest_pause_s: by how much the event loop was late at worst, for whatever cause.
        longest_busy_s: the most CPU time that the loop's thread took from one look to the next; on a busy machine a
            pause may be longer, while the thread waits for a core.
        worker_resident_bytes, worker_virtual_bytes: the largest peak of any worker process (VmHWM, VmPeak).
    """

    longest_pause_s: float = 0.0
    longest_busy_s: float = 0.0
    worker_resident_bytes: int = 0
    worker_virtual_bytes: int = 0


@dataclass(frozen=True, slots=True)
class HostileRun:
    """What became of all checks.

    Attributes:
        verdicts: one a check, in order; the text of the exception where one was raised.
        honest: the outcomes of three honest answers afterwards, as expected or not.
    """

    checks: tuple[Hostile, ...]
    verdicts: tuple[Verdict | str, ...]
    honest: tuple[bool, ...]
    watch: Watch = field(default_factory=Watch)


@asynccontextmanager
async def watched(interval_s: float = 0.005) -> AsyncIterator[Watch]:
    """Watches the event loop's lateness and the worker processes' memory until the block ends."""
    seen = Watch()
    task = asyncio.create_task(_look(seen, interval_s))
    try:
        yield seen
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _look(seen: Watch, interval_s: float) -> None:
    loop = asyncio.get_running_loop()
    rounds = 0
    while True:
        began, busy = loop.time(), time.thread_time()
        await asyncio.sleep(interval_s)
        seen.longest_busy_s = max(seen.longest_busy_s, time.thread_time() - busy)
        seen.longest_pause_s = max(seen.longest_pause_s, loop.time() - began - interval_s)
        rounds += 1
        if rounds % 10 == 0:
            for pid in _grandchildren():
                resident, virtual = _peaks(pid)
                seen.worker_resident_bytes = max(seen.worker_resident_bytes, resident)
                seen.worker_virtual_bytes = max(seen.worker_virtual_bytes, virtual)


def _grandchildren() -> list[str]:
    """The workers: the forkserver is our child, they are its children. Linux only; elsewhere none are seen."""
    return [worker for child in _children("self") if _is_forkserver(child) for worker in _children(child)]


def _is_forkserver(pid: str) -> bool:
    with suppress(OSError):
        return b"gen_service.verification.forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _children(pid: str) -> list[str]:
    with suppress(OSError):
        return [child for tasks in Path(f"/proc/{pid}/task").glob("*/children") for child in tasks.read_text().split()]
    return []


def _peaks(pid: str) -> tuple[int, int]:
    """The largest resident and virtual sizes that a process has had, in bytes."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024, int(lines["VmPeak"].split()[0]) * 1024
    except (OSError, KeyError):
        return 0, 0


def trace(gold: str, content: str) -> Trace:
    """A completion as a server would have sent it."""
    prompt = Prompt("hostile", ({"role": "user", "content": "?"},), gold, "hostile", 1)
    completion = Completion(None, content, "stop", 1, 1, NO_TOKENS, "m", "e", 0, (), 0.0, None, 1.0)
    return Trace(Sample("s", "j", prompt, 0), completion)


async def attack(settings: VerificationSettings, checks: Sequence[Hostile]) -> HostileRun:
    """Judges all checks with one verifier, as many at once as come, then three honest answers with the same.

    They arrive one after another, as completions do, so that a pause is what one of them costs the event loop.
    """
    async with Verifier(settings) as verifier, watched() as seen:
        arrived = []
        for check in checks:
            arrived.append(asyncio.create_task(verifier.verify(trace(check.gold, check.content))))
            await asyncio.sleep(0)
        verdicts = await asyncio.gather(*arrived, return_exceptions=True)
        honest = [(await verifier.verify(trace(gold, text))).outcome == expected for gold, text, expected in _HONEST]
    shown = (verdict if isinstance(verdict, Verdict) else repr(verdict) for verdict in verdicts)
    return HostileRun(tuple(checks), tuple(shown), tuple(honest), seen)


def broken_promises(run: HostileRun, settings: VerificationSettings, marker: Path) -> list[str]:
    """What must not have happened and did, one line each; the event loop's pause is not judged here."""
    broken = [
        f"{_title(check)}: {problem}"
        for check, verdict in zip(run.checks, run.verdicts, strict=True)
        if (problem := _problem(check, verdict, settings.cpu_s))
    ]
    if marker.exists():
        broken.append("a payload was executed")
    if not all(run.honest):
        broken.append(f"honest answers were judged {run.honest} afterwards")
    if run.watch.worker_virtual_bytes > settings.memory_bytes:
        broken.append(f"a worker had {run.watch.worker_virtual_bytes} bytes (limit {settings.memory_bytes})")
    return broken


def _problem(check: Hostile, verdict: Verdict | str, cpu_s: float) -> str | None:
    if isinstance(verdict, str):
        return f"raised {verdict}"
    allowed = _ANSWERED | {"ungradable"} if check.gold_is_hostile else _ANSWERED
    if verdict.outcome not in allowed | ({"ungradable"} if _false(check) else set()):
        return f"called {verdict.outcome} ({verdict.reason})"
    if verdict.outcome == "error" and "memory" not in verdict.reason:
        return f"an error for another cause than memory: {verdict.reason}"
    if not verdict.reason:
        return "no reason"
    # The gold by itself and then the answer have the budget each.
    return f"{verdict.cpu_s:.2f} CPU s" if verdict.cpu_s > 2 * (cpu_s + GRAIN_S) else None


def _false(check: Hostile) -> bool:
    return not check.gold_is_hostile and check.gold != "y+3"


def _title(check: Hostile) -> str:
    return f"{check.name} ({'gold' if check.gold_is_hostile else 'answer'})"


def show(run: HostileRun, settings: VerificationSettings, marker: Path) -> bool:
    """Prints every verdict, the totals, and what is broken; gives whether all promises hold."""
    table = Table("input", "side", "outcome", "reason", "CPU s", title="hostile inputs")
    for check, verdict in zip(run.checks, run.verdicts, strict=True):
        side = "gold" if check.gold_is_hostile else "answer"
        if isinstance(verdict, str):
            table.add_row(check.name, side, "raised", escape(verdict[:80]), "")
        else:
            table.add_row(check.name, side, verdict.outcome, escape(verdict.reason[:80]), f"{verdict.cpu_s:.3f}")
    outcomes = Counter(verdict if isinstance(verdict, str) else verdict.outcome for verdict in run.verdicts)
    console = Console(width=WIDTH)
    console.print(table)
    console.print(f"{len(run.checks)} checks: " + ", ".join(f"{n} {name}" for name, n in outcomes.most_common()))
    pause, seen = run.watch.longest_pause_s, run.watch
    console.print(
        f"longest pause of the event loop: {1e3 * pause:.1f} ms (wanted: under {1e3 * PAUSE_S:.0f} ms); "
        f"longest work without a pause: {1e3 * seen.longest_busy_s:.1f} ms of CPU"
    )
    resident, virtual, limit = (
        size / 2**20 for size in (seen.worker_resident_bytes, seen.worker_virtual_bytes, settings.memory_bytes)
    )
    console.print(
        f"largest worker: {resident:.0f} MiB resident, {virtual:.0f} MiB of address space (limit {limit:.0f})"
    )
    broken = broken_promises(run, settings, marker) + ([f"a pause of {pause:.3f} s"] if pause > PAUSE_S else [])
    for line in broken:
        console.print(f"BROKEN  {escape(line)}")
    console.print("all promises hold" if not broken else f"{len(broken)} promises broken")
    return not broken


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, and exit with 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__)
    parser.add_argument("--cpu-s", type=float, default=2.0, help="CPU seconds of a gold, and then of its answer")
    parser.add_argument("--wall-s", type=float, default=30.0, help="seconds that one check may take")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(argv)
    settings = VerificationSettings(
        workers=options.workers, cpu_s=options.cpu_s, wall_s=options.wall_s, memory_bytes=2**30
    )
    with tempfile.TemporaryDirectory(prefix="hostile") as folder:
        marker = Path(folder) / "executed"
        run = run_async(attack(settings, hostile_checks(marker)))
        held = show(run, settings, marker)
    raise SystemExit(not held)


if __name__ == "__main__":
    main()
