"""One run of one job on what the service shares."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from gen_service.controller.endings import Ending
from gen_service.controller.measurements import count_published
from gen_service.controller.run import Run
from gen_service.controller.shared import Shared
from gen_service.controller.specs import spec_of
from gen_service.controller.tracing import JobSpan
from gen_service.endpoints.job_fleet import JobFleet
from gen_service.endpoints.shares import Share
from gen_service.jobs.runner import JobReport, RunningJob, Surroundings, run_job
from gen_service.records import Trace

# Open samples of a job that are not in flight: enough that no place waits for the reading of a prompt, and few enough
# that hundreds of jobs fit in memory.
LEAST_BUFFER, MOST_BUFFER = 16, 64

Told = Callable[[], None]
_log = structlog.get_logger(__name__)


async def conduct(run: Run, shared: Shared, span: JobSpan, on_open: Told, on_tail: Told) -> Ending:
    """Run a job until it is complete or asked to end; whatever it raises is in how it ended.

    A job that ends for good before this began only publishes what an earlier run journaled: it asks no server.

    Args:
        span: told of each sample.
        on_open: called when the job's folder is open.
        on_tail: called when all its prompts are taken in.
    """
    # Not those of the request that this task may stem from.
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(job_id=run.row.id)
    try:
        report = await _run(run, shared, span, on_open, on_tail)
    except Exception as failure:
        _log.warning("a run failed", exc_info=failure)
        return Ending(wish=run.wish, failure=failure)
    finally:
        if run.running is not None and run.running.backlog is not None:
            count_published(shared.metrics, run.running.backlog)
    run.report = report
    return Ending(
        complete=report.complete,
        wish=run.wish,
        recovered=run.is_sampling or report.complete,
        # A batch tells what is wrong with its lines in its error file.
        nothing_usable=None if run.row.kind == "batch" else _nothing_usable(report),
    )


async def _run(run: Run, shared: Shared, span: JobSpan, on_open: Told, on_tail: Told) -> JobReport:
    row, ends = run.row, run.wish == "end"
    spec = spec_of(row, shared.settings)

    def notice(words: str) -> None:
        shared.notices.put(row.id, words)

    def trace_ended(trace: Trace) -> None:
        shared.metrics.observe_trace(trace)
        span.sample(trace)
        if trace.completion is None:
            retries = len(trace.retries)
            _log.warning("a sample failed", sample_id=trace.sample.sample_id, error=trace.error, retries=retries)

    def opened(running: RunningJob) -> None:
        run.opened(running)
        running.progress.on_exhausted = on_tail
        shared.changes.tell(row.id)
        on_open()

    async def join() -> JobFleet:
        run.is_sampling = True
        if ends:
            run.end("end")
        return shared.fleet.join(_share(run), spec.sampling, spec.endpoints.model, notice)

    async with shared.verifiers.use(spec.verification) as verifier:
        surroundings = Surroundings(verifier, join, trace_ended)
        return await run_job(
            spec,
            surroundings,
            stop=run.stop,
            on_notice=notice,
            on_start=opened,
            buffer=max(LEAST_BUFFER, min(MOST_BUFFER, shared.settings.fleet.in_flight)),
            expected=row.samples,
        )


def _share(run: Run) -> Share:
    row = run.row
    return Share(row.id, row.tenant, run.tenant_weight, row.priority, row.weight, row.max_in_flight)


def _nothing_usable(report: JobReport) -> str | None:
    if not report.complete or report.published.rows > 0:
        return None
    first = report.progress.first_rejected
    return f"no usable prompt: {report.published.rejected} rows were set aside; the first: {first}"
