"""Runs one job: opens its parts, hands them to the main loop, and closes them whatever happens."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from gen_service.endpoints.client import Client
from gen_service.endpoints.fleet import Fleet
from gen_service.generation.generate import Generation, SamplePlan
from gen_service.generation.pool import Stop
from gen_service.generation.progress import Progress
from gen_service.jobs.job import JobSpec
from gen_service.storage import prompts as prompt_source
from gen_service.storage.job_folder import PublishedCounts, open_job_folder
from gen_service.storage.seen import Seen
from gen_service.verification.verify import Verifier


@dataclass(frozen=True, slots=True)
class JobReport:
    """How a run of a job ended.

    Attributes:
        job_id: the job.
        folder: path or URL of its published output.
        published: counts over all runs, from the manifest.
        progress: counts of this run.
        complete: every sample of every prompt is published; False after a stop.
    """

    job_id: str
    folder: str
    published: PublishedCounts
    progress: Progress
    complete: bool


@dataclass(slots=True)
class RunningJob:
    """A look into a job while it runs, for whoever shows it."""

    spec: JobSpec
    progress: Progress
    fleet: Fleet | None = None


Notice = Callable[[str], None]
Shown = Callable[[RunningJob], None]


def _nothing(_: object) -> None:
    return


async def generate(
    spec: JobSpec, *, stop: Stop | None = None, on_notice: Notice = _nothing, on_start: Shown = _nothing
) -> JobReport:
    """Run a job until every sample is published, or `stop` asks it to end. The same call continues it.

    Args:
        spec: the job.
        stop: asks the job to end; finished work is readable then.
        on_notice: told in words of what happens to servers and disks.
        on_start: given a look into the job before it starts.

    Returns:
        What was published.

    Raises:
        SpecError: something in the spec cannot be done.
        StorageError: another process writes the job, the folder holds another one, or it is damaged.
    """
    stop = stop or Stop()
    running = RunningJob(spec, Progress())
    sampling = json.dumps(spec.sampling.model_dump(mode="json"), sort_keys=True)
    async with AsyncExitStack() as stack:
        folder = await stack.enter_async_context(
            open_job_folder(
                spec.output, spec.job_id, spec.model_dump(mode="json"), spec.identity(), sampling, on_notice
            )
        )
        running.progress.already = folder.published.rows
        running.progress.expected = await _expected(spec)
        on_start(running)
        client = await stack.enter_async_context(Client(spec.endpoints, spec.sampling))
        verifier = await stack.enter_async_context(Verifier(spec.verification))
        fleet = Fleet(spec.endpoints, spec.pool, spec.sampling, client, on_notice)
        running.fleet = await stack.enter_async_context(fleet)
        seen_folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gen-service-"))
        seen = stack.enter_context(Seen(Path(seen_folder) / "prompts"))
        plan = SamplePlan(spec.job_id, spec.samples, spec.parameters, spec.sampling.seed)
        loop = Generation(plan, spec.truncation, spec.pool, fleet, verifier, folder, running.progress)
        await loop.run(prompt_source.read(spec.prompts, seen), stop)
        published = await folder.close()
    return JobReport(spec.job_id, folder.location, published, running.progress, complete=not stop.asked)


async def _expected(spec: JobSpec) -> int | None:
    """Samples in all, when the source can be counted cheaply."""
    prompts = await asyncio.to_thread(prompt_source.count, spec.prompts)
    return None if prompts is None else prompts * spec.samples
