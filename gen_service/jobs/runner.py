"""Runs one job: opens its parts, hands them to the main loop, and closes them whatever happens."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

from gen_service.endpoints.client import Client
from gen_service.endpoints.fleet import Fleet
from gen_service.endpoints.job_fleet import JobFleet
from gen_service.endpoints.shares import Share
from gen_service.errors import BadPromptRow
from gen_service.generation.generate import Generation
from gen_service.generation.pool import Stop
from gen_service.generation.progress import Progress
from gen_service.generation.sample_plan import SamplePlan
from gen_service.generation.steering import fingerprint
from gen_service.jobs.job import JobSpec
from gen_service.records import Prompt, Trace
from gen_service.storage import prompt_count
from gen_service.storage import prompts as prompt_source
from gen_service.storage.backlog import Backlog
from gen_service.storage.frames import JournalPosition
from gen_service.storage.job_folder import JobFolder, open_job_folder
from gen_service.storage.job_places import places
from gen_service.storage.manifest import PublishedCounts
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
        complete: every sample of every prompt is published, or skipped; False after a stop.
    """

    job_id: str
    folder: str
    published: PublishedCounts
    progress: Progress
    complete: bool


@dataclass(slots=True)
class RunningJob:
    """A look into a job while it runs, for whoever shows it.

    Attributes:
        published_before: what earlier runs published.
        location: path or URL of its published output.
        backlog: what lies between the last token and the published row.
        fleet: its part of the servers; None before the first sample is asked for.
    """

    spec: JobSpec
    progress: Progress
    published_before: PublishedCounts
    location: str
    backlog: Backlog | None = None
    fleet: JobFleet | None = None


Notice = Callable[[str], None]
Shown = Callable[[RunningJob], None]
OnTrace = Callable[[Trace], None]


def _nothing(_: object) -> None:
    return


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a job runs in, and others beside it.

    Attributes:
        verifier: gives verdicts, by the spec's `verification`.
        join: gives the job its part of the servers, when its first sample is asked for.
        on_trace: given each trace when it is published.
    """

    verifier: Verifier
    join: Callable[[], Awaitable[JobFleet]]
    on_trace: OnTrace = _nothing


async def generate(
    spec: JobSpec, *, stop: Stop | None = None, on_notice: Notice = _nothing, on_start: Shown = _nothing
) -> JobReport:
    """Run a job until every sample is published or skipped, or `stop` asks it to end. The same call continues it.

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
    async with AsyncExitStack() as stack:

        async def join() -> JobFleet:
            client = await stack.enter_async_context(Client(spec.endpoints))
            fleet = await stack.enter_async_context(Fleet(spec.endpoints, spec.pool, client, on_notice))
            fleet.require(spec.endpoints.model)
            return fleet.join(Share(spec.job_id), spec.sampling, spec.endpoints.model, on_notice)

        verifier = await stack.enter_async_context(Verifier(spec.verification))  # first: a wrong kind makes no folder
        return await run_job(spec, Surroundings(verifier, join), stop=stop, on_notice=on_notice, on_start=on_start)


async def run_job(
    spec: JobSpec,
    surroundings: Surroundings,
    *,
    stop: Stop | None = None,
    on_notice: Notice = _nothing,
    on_start: Shown = _nothing,
    buffer: int | None = None,
    expected: int | None = None,
) -> JobReport:
    """As `generate`, with a verifier and servers that others may use too. `spec.endpoints` is not looked at.

    Args:
        surroundings: what the job runs in; opened and closed by the caller.
        buffer: samples that are open and not in flight, at most; None for enough to keep a fleet busy alone.
        expected: samples that the job makes in all, where the caller knows.
    """
    stop = stop or Stop()
    async with AsyncExitStack() as stack:
        progress = Progress(expected=expected)
        parts = await _open(spec, stack, surroundings, progress, on_notice, buffer)
        running = RunningJob(spec, progress, parts.folder.published, location(spec), parts.folder.backlog)
        on_start(running)
        if expected is None:
            counting = asyncio.create_task(_count(spec, progress))
            stack.callback(counting.cancel)

        async def join() -> JobFleet:
            fleet = running.fleet = await surroundings.join()
            stack.callback(fleet.leave)
            return fleet

        forcing = asyncio.create_task(_end_waits_when_forced(stop, parts.folder))
        stack.callback(forcing.cancel)
        await parts.loop.recover(stop)
        await parts.loop.sample(parts.prompts(), join, stop)
        published = await parts.folder.close()
    return JobReport(spec.job_id, location(spec), published, progress, progress.complete)


async def has_work(spec: JobSpec) -> bool:
    """Whether the job has samples that are neither generated nor skipped, found without asking a server. A run may
    still skip them all: what has enough is told from verdicts, which a killed run may have left in the journal.

    Raises:
        as `generate`.
    """
    async with AsyncExitStack() as stack:
        verifier = await stack.enter_async_context(Verifier(spec.verification))
        parts = await _open(spec, stack, Surroundings(verifier, _no_fleet), Progress(), _nothing)
        return await parts.loop.has_work(parts.prompts())


async def _no_fleet() -> JobFleet:
    raise RuntimeError("no server is asked here")


def location(spec: JobSpec) -> str:
    """The folder or URL of the job's published output."""
    return f"{spec.output.path.rstrip('/')}/{spec.job_id}"


@dataclass(frozen=True, slots=True)
class _Parts:
    folder: JobFolder
    loop: Generation[JournalPosition]
    prompts: Callable[[], Iterator[Prompt | BadPromptRow]]


async def _open(
    spec: JobSpec,
    stack: AsyncExitStack,
    surroundings: Surroundings,
    progress: Progress,
    on_notice: Notice,
    buffer: int | None = None,
) -> _Parts:
    """Open the job's folder and what needs no server. The prompts are read anew by each call of `prompts`."""
    sampling = json.dumps(spec.sampling.model_dump(mode="json"), sort_keys=True)
    folder = await stack.enter_async_context(
        open_job_folder(
            *(spec.output, spec.job_id, spec.model_dump(mode="json"), spec.identity(), sampling, on_notice),
            steering=fingerprint(spec.steering),
            keep_outcomes=spec.steering.is_on,
        )
    )
    _continue_from(progress, folder.published)
    at = places(spec.output, spec.job_id)
    readings = itertools.count()

    def prompts() -> Iterator[Prompt | BadPromptRow]:
        seen = stack.enter_context(Seen(at.seen(f"prompts-{next(readings)}")))
        return prompt_source.read(spec.prompts, seen)

    plan = SamplePlan(spec.job_id, spec.samples, spec.parameters, spec.sampling.seed)
    loop = Generation(
        plan,
        spec.truncation,
        spec.pool,
        surroundings.verifier,
        folder,
        progress,
        order=spec.order,
        steering=spec.steering,
        buffer=buffer,
        on_trace=surroundings.on_trace,
    )
    return _Parts(folder, loop, prompts)


def _continue_from(progress: Progress, published: PublishedCounts) -> None:
    progress.already = published.rows
    progress.already_correct = published.by_verdict.get("correct", 0)
    progress.already_tokens = published.completion_tokens
    progress.already_skipped = sum(published.skipped.values())


async def _end_waits_when_forced(stop: Stop, folder: JobFolder) -> None:
    """A job that was told twice to end does not wait for room on a full disk any more."""
    await stop.wait_forced()
    folder.give_up_waiting()


async def _count(spec: JobSpec, progress: Progress) -> None:
    """Tell the progress how many samples there will be, when the source can be counted cheaply."""
    prompts = await asyncio.to_thread(prompt_count.count, spec.prompts)
    progress.expected = None if prompts is None else prompts * spec.samples
