"""A job's folder keeps what has come of unfinished samples, over a kill, until they are done."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gen_service.records import Partial, Skipped, Trace, Verdict
from gen_service.settings import OutputSettings
from gen_service.storage.job_folder import JobFolder, open_job_folder

MakeTrace = Callable[..., Trace]


def open_job(path: Path) -> JobFolder:
    return open_job_folder(OutputSettings(path=str(path)), "job", {}, {}, "{}", lambda words: None)


def partial_of(trace: Trace, tokens: int = 5) -> Partial:
    ids = np.arange(tokens, dtype=np.int32)
    return Partial(trace.sample.sample_id, np.array([1], dtype=np.int32), ids, "", "x" * tokens, "", 0, 1.0)


def tokens_of(job: JobFolder, trace: Trace) -> int | None:
    kept = job.partial_of(trace.sample.sample_id)
    return None if kept is None else len(kept.token_ids)


def killed(path: Path, name: str) -> Path:
    """What the disk holds now, as a run finds it that comes after a kill."""
    return Path(shutil.copytree(path, path.parent / name))


async def test_after_a_kill_what_is_not_done_has_what_came_of_it(tmp_path: Path, make_trace: MakeTrace) -> None:
    traces = [make_trace(number) for number in range(4)]
    async with open_job(tmp_path / "first") as job:
        for trace in traces:
            job.keep_partial(partial_of(trace))
        await asyncio.to_thread(job._stations.partials.flush)
        await job.record(traces[0])
        position = await job.record(traces[1])
        await job.publish(position, dataclasses.replace(traces[1], verdict=Verdict("correct", "by test")))
        job.skip(Skipped(traces[2].sample.sample_id, "p2", 0, "solved"))
        await job.flush()
        again = killed(tmp_path / "first", "second")
        job.keep_partial(partial_of(traces[3], 8))
    async with open_job(again) as job:
        assert [tokens_of(job, trace) for trace in traces] == [None, None, None, 5]
        assert [job.is_done(trace.sample.sample_id) for trace in traces] == [True, True, True, False]
    # The first run was not killed: it wrote what it kept last.
    async with open_job(tmp_path / "first") as job:
        assert [tokens_of(job, trace) for trace in traces] == [None, None, None, 8]


async def test_a_folder_that_is_only_looked_at_keeps_what_it_has(tmp_path: Path, make_trace: MakeTrace) -> None:
    trace = make_trace(1)
    async with open_job(tmp_path / "out") as job:
        job.keep_partial(partial_of(trace))
    for _ in range(2):
        async with open_job(tmp_path / "out") as job:
            assert tokens_of(job, trace) == 5


async def test_a_job_that_is_done_leaves_no_partials(tmp_path: Path, make_trace: MakeTrace) -> None:
    trace = make_trace(1)
    folder = tmp_path / "out" / "job" / "journal" / "partials"
    async with open_job(tmp_path / "out") as job:
        job.keep_partial(partial_of(trace))
        await asyncio.to_thread(job._stations.partials.flush)
        assert len(list(folder.iterdir())) == 1
        await job.record(trace)
    assert not folder.exists()
