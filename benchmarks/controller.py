"""One job in a process of its own: reads a spec as JSON, runs `generate`, prints what it cost.

Input: {"spec": {...}, "warm_up": prompts of a small job before it (0: none), "profile": path or null}.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import sys
from typing import Any

from benchmarks.measurement import Meter
from gen_service.jobs.job import JobSpec, make_spec
from gen_service.jobs.runner import JobReport, generate
from gen_service.terminal.run import run_async


async def measured(spec: JobSpec, warm_up: int, profile: str | None) -> dict[str, Any]:
    """Run the job from call to published; its cost and counts."""
    if warm_up:
        prompts = spec.prompts.model_copy(update={"limit": warm_up})
        await generate(spec.model_copy(update={"name": f"{spec.job_id}-warm-up", "prompts": prompts}))
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    pauses: list[float] = [0.0]
    watching = asyncio.create_task(watch(pauses))
    meter = Meter()
    report = await generate(spec)
    cost = meter.read()
    watching.cancel()
    if profile:
        profiler.disable()
        profiler.dump_stats(profile)
    return {**cost.as_dict(), **counts(report), "longest_pause_s": max(pauses)}


async def watch(pauses: list[float]) -> None:
    """Note by how much a sleep of 5 ms is late: as long as something else kept the event loop."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        await asyncio.sleep(0.005)
        pauses.append(loop.time() - began - 0.005)


def counts(report: JobReport) -> dict[str, Any]:
    """What the run published."""
    return {"rows": report.published.rows, "by_verdict": report.published.by_verdict, "folder": report.folder}


def main() -> None:
    """Read the input, print the answer."""
    given = json.load(sys.stdin)
    spec = make_spec(given["spec"])
    print(json.dumps(run_async(measured(spec, given.get("warm_up", 0), given.get("profile")))))


if __name__ == "__main__":
    main()
