"""A job from Python, over simulated servers: from spec to published rows, stopped and continued."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gen_service import JobReport, generate, make_spec, read_traces
from gen_service.endpoints.client import Client
from gen_service.endpoints.fleet import Fleet
from gen_service.endpoints.job_fleet import JobFleet
from gen_service.endpoints.shares import Share
from gen_service.endpoints.simulated import Fixed, Script, SimulatedServer, SimulationSettings, TokenRate
from gen_service.errors import JobLocked, JobMismatch, SpecError
from gen_service.generation.pool import Stop
from gen_service.jobs.audit import audit
from gen_service.jobs.job import JobSpec
from gen_service.jobs.runner import RunningJob, Surroundings, has_work, location, run_job
from gen_service.records import Trace
from gen_service.settings import EndpointSettings, PoolSettings, VerificationSettings
from gen_service.storage.traces import part_files
from gen_service.verification.verify import Verifier

SLOW = SimulationSettings(script=Script(timing=TokenRate(tokens_per_s=4000.0)), tick_s=0.005)


def write_prompts(folder: Path, count: int, *bad: str) -> str:
    rows = [
        {"id": f"p{number}", "prompt": f"What is {number} + 5?", "answer": str(number + 5)} for number in range(count)
    ]
    path = folder / "prompts.jsonl"
    path.write_text("".join(f"{line}\n" for line in [*map(json.dumps, rows), *bad]), encoding="utf-8")
    return str(path)


def job(folder: Path, prompts: str, url: str, **more: Any) -> JobSpec:
    document: dict[str, Any] = {
        "name": "job",
        "prompts": prompts,
        "samples": 2,
        "endpoints": url,
        "sampling": {"max_tokens": 500},
        "output": str(folder / "out"),
    }
    return make_spec(document | more)


async def test_a_job_is_complete_sound_and_not_asked_twice(tmp_path: Path) -> None:
    async with SimulatedServer() as server:
        spec = job(tmp_path, write_prompts(tmp_path, 30, "not json", '{"prompt": ""}'), server.url)
        assert await has_work(spec)
        shown: list[RunningJob] = []
        report = await generate(spec, on_start=shown.append)
        assert shown[0].fleet is not None
        assert (report.complete, report.published.rows, report.published.rejected) == (True, 60, 2)
        assert report.published.by_verdict == {"correct": 60}
        asked = len(server.log)
    assert report.folder == location(spec)
    assert len({row["sample_id"] for row in read_traces(report.folder)}) == 60
    found = audit(spec)
    assert (found.expected, found.published, found.missing, found.doubled, found.rejected) == (60, 60, 0, 0, 2)
    assert not await has_work(spec)
    # No server is there any more, and none is asked.
    again = await generate(spec)
    assert (again.complete, again.progress.published, again.published.rows) == (True, 0, 60)
    assert asked == len(server.log)


async def test_a_stopped_job_goes_on_and_may_grow(tmp_path: Path) -> None:
    slow = SimulationSettings(script=Script(3, Fixed(40), "tokens", TokenRate(Fixed(0.0), 400.0)))
    async with SimulatedServer(slow) as server:
        spec = job(tmp_path, write_prompts(tmp_path, 40), server.url, pool={"in_flight": 8, "grace_s": 0.0})
        stop, started = Stop(), asyncio.Event()
        running = asyncio.create_task(generate(spec, stop=stop, on_start=lambda _: started.set()))
        await started.wait()
        while not any(line["event"] == "sent" for line in server.log):  # noqa: ASYNC110
            await asyncio.sleep(0)
        stop.ask()
        first = await running
        assert not first.complete
        assert first.published.rows < 80
        assert not audit(spec).sound
        grown = spec.model_copy(update={"samples": 3, "pool": spec.pool.model_copy(update={"in_flight": 64})})
        second = await generate(grown)
    assert (second.complete, second.published.rows) == (True, 120)
    assert audit(grown).sound


async def test_a_job_goes_on_under_another_verifier_and_rows_say_which_judged(tmp_path: Path) -> None:
    async with SimulatedServer(SimulationSettings(script=Script(p_right=1.0))) as server:
        prompts = write_prompts(tmp_path, 6)
        await generate(job(tmp_path, prompts, server.url))
        report = await generate(job(tmp_path, prompts, server.url, samples=3, verification={"kind": "numeric"}))
        rows = list(read_traces(location(job(tmp_path, prompts, server.url))))
    assert (report.complete, len(rows), len({row["sample_id"] for row in rows})) == (True, 18, 18)
    kinds = [(row["sample_index"], row["verifier"].split("-")[0], row["verdict"]) for row in rows]
    assert sorted(kinds) == [
        (index, kind, "correct") for index, kind in [(0, "math"), (1, "math"), (2, "numeric")] for _ in range(6)
    ]
    assert audit(job(tmp_path, prompts, server.url, samples=3)).sound


async def test_a_kind_that_is_not_there_is_named_before_anything_is_written(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 2)
    with pytest.raises(SpecError, match=r"verification.kind: got 'maths'; expected one of math, exact"):
        await generate(job(tmp_path, prompts, "http://127.0.0.1:9", verification={"kind": "maths"}))
    assert not (tmp_path / "out").exists()


async def test_the_same_name_with_another_sampling_is_refused(tmp_path: Path) -> None:
    async with SimulatedServer() as server:
        prompts = write_prompts(tmp_path, 2)
        await generate(job(tmp_path, prompts, server.url))
        with pytest.raises(JobMismatch, match="temperature"):
            await generate(job(tmp_path, prompts, server.url, sampling={"max_tokens": 500, "temperature": 0.1}))


async def test_a_job_has_one_writer(tmp_path: Path) -> None:
    slow = SimulationSettings(script=Script(timing=TokenRate(Fixed(3600.0), 1.0)))
    async with SimulatedServer(slow) as server:
        spec = job(tmp_path, write_prompts(tmp_path, 2), server.url, pool={"grace_s": 0.0})
        stop, started = Stop(), asyncio.Event()
        running = asyncio.create_task(generate(spec, stop=stop, on_start=lambda _: started.set()))
        await started.wait()
        with pytest.raises(JobLocked):
            await generate(spec)
        stop.ask()
        report = await running
        assert (report.complete, report.published.rows) == (False, 0)


async def test_jobs_share_a_fleet_and_a_verifier_and_each_has_its_own_traces(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(SimulatedServer(SLOW)) for _ in range(2)]
        endpoints = EndpointSettings(urls=tuple(server.url for server in servers))
        client = await stack.enter_async_context(Client(endpoints))
        fleet = await stack.enter_async_context(Fleet(endpoints, PoolSettings(in_flight=8), client, lambda _: None))
        verifier = await stack.enter_async_context(Verifier(VerificationSettings(workers=1)))
        prompts = write_prompts(tmp_path, 20)
        specs = [job(tmp_path, prompts, "http://unused", name=name) for name in ("one", "two", "three")]
        traces: dict[str, list[Trace]] = {spec.job_id: [] for spec in specs}
        looks: list[RunningJob] = []

        async def run(spec: JobSpec) -> JobReport:
            async def join() -> JobFleet:
                return fleet.join(Share(spec.job_id), spec.sampling, None, lambda _: None)

            around = Surroundings(verifier, join, traces[spec.job_id].append)
            return await run_job(spec, around, on_start=looks.append, buffer=4, expected=40)

        reports = await asyncio.gather(*map(run, specs))
        assert fleet._jobs == {}
    looks.sort(key=lambda look: specs.index(look.spec))
    for spec, report, look in zip(specs, reports, looks, strict=True):
        assert (report.complete, report.published.rows, report.folder) == (True, 40, location(spec))
        assert audit(spec).sound
        assert {trace.sample.sample_id for trace in traces[spec.job_id]} == {
            row["sample_id"] for row in read_traces(report.folder)
        }
        assert (look.spec, look.location, look.published_before.rows) == (spec, location(spec), 0)
        assert (look.progress.expected, look.progress.published) == (40, 40)
        assert look.fleet is not None
        assert look.fleet.in_flight == 0


async def test_a_look_into_a_continued_job_says_what_was_there(tmp_path: Path) -> None:
    async with SimulatedServer() as server:
        spec = job(tmp_path, write_prompts(tmp_path, 4), server.url)
        await generate(spec)
        shown: list[RunningJob] = []
        await generate(spec.model_copy(update={"samples": 3}), on_start=shown.append)
    assert (shown[0].published_before.rows, shown[0].progress.published) == (8, 4)


async def test_a_model_that_no_server_has_is_named(tmp_path: Path) -> None:
    async with SimulatedServer() as server:
        endpoints = {"urls": [server.url], "model": "missing"}
        with pytest.raises(SpecError, match=r"endpoints\.model: got 'missing'; expected a model that is served"):
            await generate(job(tmp_path, write_prompts(tmp_path, 2), server.url, endpoints=endpoints))


async def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"prompts\.path"):
        await generate(job(tmp_path, str(tmp_path / "nothing.jsonl"), "http://127.0.0.1:1"))


async def test_the_audit_sees_a_row_that_is_missing(tmp_path: Path) -> None:
    async with SimulatedServer() as server:
        spec = job(tmp_path, write_prompts(tmp_path, 5), server.url)
        report = await generate(spec)
        write_prompts(tmp_path, 7)
    found = audit(spec)
    assert (found.expected, found.published, found.missing, found.sound) == (14, 10, 4, False)
    assert len(part_files(report.folder)) == 1
