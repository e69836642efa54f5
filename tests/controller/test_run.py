"""What a run says of its job's samples."""

from __future__ import annotations

import dataclasses
from typing import Any

from gen_service.controller.run import Run
from gen_service.generation.progress import Progress
from gen_service.jobs.job import make_spec
from gen_service.jobs.runner import JobReport, RunningJob
from gen_service.storage.manifest import PublishedCounts
from gen_service.store.rows import JobRow

SPEC = make_spec({"prompts": "x.jsonl", "endpoints": "http://127.0.0.1:1", "samples": 8})
EMPTY: dict[str, Any] = {field.name: None for field in dataclasses.fields(JobRow)}
ROW = JobRow(**EMPTY | {"id": "job", "kind": "native", "state": "running", "counts": {}, "samples": 800})


def test_samples_are_rows_or_not_needed_while_it_runs_and_when_it_is_done() -> None:
    before = PublishedCounts(rows=100, by_verdict={"correct": 60}, skipped={"solved": 300}, steering="k")
    progress = Progress(expected=800)
    run = Run(ROW, 1.0, 1.0)
    run.running = RunningJob(SPEC, progress, before, "out/job")
    progress.published = 50
    progress.skip("solved")
    progress.skip("given_up")
    counts = run.counts()
    assert (counts.samples, counts.published, counts.done) == (800, 150, 452)
    assert counts.skipped == {"solved": 301, "given_up": 1}
    final = PublishedCounts(rows=200, skipped={"solved": 500, "given_up": 100}, steering="k")
    run.report = JobReport("job", "out/job", final, progress, True)
    counts = run.counts()
    assert (counts.samples, counts.published, counts.done) == (800, 200, 800)
    assert counts.skipped == final.skipped
