"""The controller of `many_servers`, in a process of its own: one job by `generate`, and what it cost.

Input: {"spec": {...}, "slots": requests that can be in flight} as JSON. Output: the report of one run as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.loop_lag import LagProbe
from benchmarks.measurement import Meter
from gen_service.jobs.job import JobSpec, make_spec
from gen_service.jobs.runner import JobReport, RunningJob, generate
from gen_service.terminal.run import run_async

LOOK_S = 0.5
# Of the slots: from the first to the last look at which so many are in use, the fleet counts as full.
FULL = 0.95


@dataclass(frozen=True, slots=True)
class Look:
    """The controller at one moment of `time.perf_counter`: CPU seconds so far, requests in flight, in all and at the
    server with the fewest."""

    at: float
    cpu_s: float
    in_flight: int
    least: int


@dataclass(slots=True)
class Watch:
    """Looks at a job while it runs."""

    looks: list[Look] = field(default_factory=list)
    job: RunningJob | None = None

    def show(self, job: RunningJob) -> None:
        """The job has begun."""
        self.job = job

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self.job is not None and (fleet := self.job.fleet) is not None:
                at = [endpoint.in_flight for endpoint in fleet.endpoints]
                self.looks.append(Look(time.perf_counter(), time.process_time(), sum(at), min(at, default=0)))
            await asyncio.sleep(LOOK_S)

    def full(self, slots: int) -> list[Look]:
        """The looks from the first to the last at which the fleet was full."""
        at = [index for index, look in enumerate(self.looks) if look.in_flight >= FULL * slots]
        return self.looks[at[0] : at[-1] + 1] if at else []


async def measured(spec: JobSpec, slots: int) -> dict[str, Any]:
    """Run the job; its counts, its CPU time, the lag of its loop, over the whole run and while the fleet was full."""
    watch, probe, meter = Watch(), LagProbe(), Meter()
    async with contextlib.AsyncExitStack() as stack:
        for running in (asyncio.create_task(watch.run()), asyncio.create_task(probe.run())):
            stack.callback(running.cancel)
        report = await generate(spec, on_start=watch.show)
    return {**_whole(report, meter, probe), "full": _full(watch.full(slots), probe, slots)}


def _whole(report: JobReport, meter: Meter, probe: LagProbe) -> dict[str, Any]:
    cost = meter.read()
    return {
        "rows": report.published.rows,
        "by_verdict": report.published.by_verdict,
        "tokens": report.progress.completion_tokens,
        "retries": dict(report.progress.retries),
        "wall_s": cost.wall_s,
        "cpu_share": cost.cpu_s / cost.wall_s,
        "cpu_ms_a_sample": 1e3 * cost.cpu_s / max(1, report.published.rows),
        "peak_mb": cost.peak_mb,
        "lag": probe.figures().as_dict(),
    }


def _full(looks: list[Look], probe: LagProbe, slots: int) -> dict[str, Any]:
    """What was seen while the fleet was full; an empty object if it never was for two looks."""
    if len(looks) < 2:
        return {}
    first, last = looks[0], looks[-1]
    seconds = last.at - first.at
    return {
        "seconds": seconds,
        "mean_in_flight": sum(look.in_flight for look in looks) / len(looks),
        "least_at_a_server": min(look.least for look in looks),
        "cpu_share": (last.cpu_s - first.cpu_s) / seconds,
        "lag": probe.figures(first.at, last.at).as_dict(),
        "slots": slots,
    }


def main() -> None:
    """Read the input, print the answer."""
    given = json.load(sys.stdin)
    print(json.dumps(run_async(measured(make_spec(given["spec"]), given["slots"]))))


if __name__ == "__main__":
    main()
