"""One job in a process of its own: reads a spec as JSON, runs `generate`, prints what it cost.

Input: {"spec": {...}, "warm_up": prompts of a small job before it (0: none), "profile": path or null}.
"""

from __future__ import annotations

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
    meter = Meter()
    report = await generate(spec)
    cost = meter.read()
    if profile:
        profiler.disable()
        profiler.dump_stats(profile)
    return {**cost.as_dict(), **counts(report)}


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
