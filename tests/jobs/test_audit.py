"""Rows and skipped samples against what the prompts ask for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gen_service.errors import BadPromptRow
from gen_service.generation.sample_plan import SamplePlan
from gen_service.jobs.audit import audit
from gen_service.jobs.job import JobSpec, make_spec
from gen_service.jobs.runner import JobReport
from gen_service.jobs.summary import summarize
from gen_service.records import NO_TOKENS, Completion, Sample, Skipped, Trace, Verdict
from gen_service.storage import prompts as prompt_source
from gen_service.storage import traces
from gen_service.storage.job_folder import JobFolder, open_job_folder
from gen_service.storage.seen import Seen

PROMPTS, SAMPLES = 12, 3


def spec_of(report: JobReport, tmp_path: Path, samples: int) -> JobSpec:
    document: dict[str, Any] = {
        "name": report.job_id,
        "prompts": str(tmp_path / "problems.jsonl"),
        "samples": samples,
        "endpoints": "http://127.0.0.1:1",
        "sampling": {"max_tokens": 200},
        "output": str(tmp_path / "traces"),
    }
    return make_spec(document)


def samples_from(spec: JobSpec, tmp_path: Path, first: int) -> list[Sample]:
    plan = SamplePlan(spec.job_id, spec.samples, spec.parameters)
    with Seen(tmp_path / "seen") as seen:
        prompts = [row for row in prompt_source.read(spec.prompts, seen) if not isinstance(row, BadPromptRow)]
    return [sample for prompt in prompts for sample in plan.samples_of(prompt) if sample.index >= first]


def folder_of(spec: JobSpec, steering: str) -> JobFolder:
    return open_job_folder(spec.output, spec.job_id, {}, spec.identity(), "{}", lambda _: None, steering=steering)


async def test_a_sample_that_is_not_needed_is_accounted_for_until_it_is(
    run_job: Callable[..., Awaitable[JobReport]], tmp_path: Path
) -> None:
    spec = spec_of(await run_job(PROMPTS), tmp_path, SAMPLES + 2)
    found = audit(spec)
    assert (found.sound, found.missing) == (False, 2 * PROMPTS)
    left = samples_from(spec, tmp_path, SAMPLES)
    async with folder_of(spec, "targets") as folder:
        for sample in left:
            folder.skip(Skipped(sample.sample_id, sample.prompt.prompt_id, sample.index, "solved"))
    found = audit(spec)
    assert (found.sound, found.expected, found.published, found.skipped) == (True, 60, 36, 24)
    assert summarize(found_at := f"{spec.output.path}/{spec.job_id}").skipped == {"solved": 24}
    assert traces.published_counts(found_at).samples == 60
    async with folder_of(spec, "other targets"):
        pass
    found = audit(spec)
    assert (found.sound, found.skipped, found.missing) == (False, 0, 24)


async def test_a_sample_cut_in_flight_has_a_row_and_no_part_in_pass_at_k(
    run_job: Callable[..., Awaitable[JobReport]], tmp_path: Path
) -> None:
    spec = spec_of(await run_job(PROMPTS), tmp_path, SAMPLES + 1)
    before = summarize(place := f"{spec.output.path}/{spec.job_id}")
    verdict = Verdict("truncated", "cut off")
    async with folder_of(spec, "") as folder:
        for sample in samples_from(spec, tmp_path, SAMPLES):
            cut = Completion(None, "So", "cancelled", 1, 1, NO_TOKENS, "m", "e", 0, (), 0.0, None, 1.0)
            trace = Trace(sample, cut)
            await folder.publish(await folder.record(trace), replace(trace, verdict=verdict))
    after = summarize(place)
    assert (after.rows, after.verdicts["truncated"]) == (before.rows + PROMPTS, PROMPTS)
    assert (after.prompts, after.pass_at(1)) == (before.prompts, before.pass_at(1))
    assert audit(spec).sound
