from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from gen_service.errors import BadPromptRow, JobLocked, JobMismatch, PublishConflict, SpecError, StorageError
from gen_service.records import Outcome, Trace, Verdict
from gen_service.settings import OutputSettings
from gen_service.storage import traces
from gen_service.storage.destination import open_destination
from gen_service.storage.frames import JournalPosition
from gen_service.storage.job_folder import JobFolder, open_job_folder

MakeTrace = Callable[..., Trace]
Open = Callable[..., JobFolder]


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> OutputSettings:
    if request.param == "local":
        return OutputSettings(path=str(tmp_path / "out"))
    return OutputSettings(path=f"memory://{uuid.uuid4().hex}", journal=str(tmp_path / "journal"))


@pytest.fixture
def open_job(output: OutputSettings, notices: list[str]) -> Open:
    def open_one(identity: dict[str, Any] | None = None, verify: bool = False, **changes: Any) -> JobFolder:
        settings = output.model_copy(update=changes)
        return open_job_folder(settings, "job", {"n": 1}, identity or {"n": 1}, "{}", notices.append, verify=verify)

    return open_one


def _judged(trace: Trace, outcome: Outcome = "correct") -> Trace:
    return dataclasses.replace(trace, verdict=Verdict(outcome, "by test"))


async def _record_and_publish(job: JobFolder, trace: Trace) -> JournalPosition:
    position = await job.record(trace)
    await job.publish(position, _judged(trace, "error" if trace.error else "correct"))
    return position


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, open_job: Open) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot open the job's folder .*file"):
        async with open_job(path=str(tmp_path / "file" / "out"), journal=str(tmp_path / "file" / "journal")):
            pass


async def test_every_recorded_trace_is_published_once_and_read_back(
    open_job: Open, output: OutputSettings, make_trace: MakeTrace
) -> None:
    async with open_job(shard_rows=100) as job:
        await asyncio.gather(*(_record_and_publish(job, make_trace(number)) for number in range(350)))
    path = f"{output.path}/job"
    assert sorted(row["sample_id"] for row in traces.read_traces(path)) == [f"s{number:06}" for number in range(350)]
    assert job.published == traces.published_counts(path)
    assert (job.published.rows, job.published.parts, job.published.by_verdict) == (350, 4, {"correct": 350})
    table = traces.read_table(path, ["prompt_tokens", "completion_tokens"]).to_pydict()
    assert job.published.prompt_tokens == sum(table["prompt_tokens"])
    assert job.published.completion_tokens == sum(table["completion_tokens"])


async def test_the_backlog_is_what_is_not_yet_published(open_job: Open, make_trace: MakeTrace) -> None:
    made = [make_trace(number, verdict="correct") for number in range(30)]
    async with open_job(shard_rows=1000) as job:
        backlog = job.backlog
        assert (backlog.journal_rows, backlog.shard_rows, backlog.waiting_rows) == (0, 0, 0)
        assert (backlog.journal_oldest_s, backlog.shard_oldest_s) == (0.0, 0.0)
        positions = await asyncio.gather(*(job.record(dataclasses.replace(trace, verdict=None)) for trace in made))
        assert (backlog.journal_rows, backlog.shard_rows) == (30, 0)
        assert backlog.journal_oldest_s > 0.0
        assert backlog.journal_bytes > 0
        for position, trace in list(zip(positions, made, strict=True))[:20]:
            await job.publish(position, trace)
        assert (backlog.journal_rows, backlog.shard_rows, backlog.committed) == (30, 20, (0, 0, 0))
        assert backlog.shard_oldest_s > 0.0
        await job.flush()
        assert (backlog.journal_rows, backlog.shard_rows, backlog.shard_oldest_s) == (10, 0, 0.0)
        assert (backlog.committed.rows, backlog.committed.parts) == (20, 1)
        assert backlog.committed.bytes > 0
    async with open_job() as job:
        found = await asyncio.to_thread(lambda: list(job.recovered()))
        assert (len(found), job.backlog.journal_rows, job.backlog.committed) == (10, 10, (0, 0, 0))


async def test_what_was_recorded_and_not_published_is_recovered_by_the_next_run(
    open_job: Open, make_trace: MakeTrace, assert_same: Callable[[Trace, Trace], None]
) -> None:
    async with open_job() as job:
        assert list(job.recovered()) == []
        for number in range(5):
            await job.record(make_trace(number))
        await _record_and_publish(job, make_trace(5))
    async with open_job() as job:
        assert job.epoch == 2
        assert [job.is_done(f"s{number:06}") for number in range(7)] == [True] * 6 + [False]
        recovered = list(job.recovered())
        for number, (_, trace) in enumerate(recovered):
            assert_same(trace, make_trace(number))
        for position, trace in recovered:
            await job.publish(position, _judged(trace))
    async with open_job() as job:
        assert list(job.recovered()) == []
        assert job.published.rows == 6


async def test_a_covered_journal_is_deleted_by_a_later_run(
    open_job: Open, make_trace: MakeTrace, tmp_path: Path
) -> None:
    for number in range(4):
        async with open_job() as job:
            assert list(job.recovered()) == []
            await _record_and_publish(job, make_trace(number))
    assert len(list(tmp_path.rglob("*.log"))) == 1  # noqa: ASYNC240


async def test_a_sample_cannot_be_recorded_or_published_twice(open_job: Open, make_trace: MakeTrace) -> None:
    async with open_job() as job:
        trace = make_trace(0)
        position = await job.record(trace)
        with pytest.raises(StorageError, match="recorded already"):
            await job.record(trace)
        with pytest.raises(ValueError, match="no verdict"):
            await job.publish(position, trace)
        await job.publish(position, _judged(trace))
        with pytest.raises(StorageError, match="published already"):
            await job.publish(position, _judged(trace))
        with pytest.raises(StorageError, match="not recorded"):
            await job.publish(position, _judged(make_trace(1)))
        list(job.recovered())
        with pytest.raises(StorageError, match="called twice"):
            list(job.recovered())
    assert job.published.rows == 1


async def test_one_writer_at_a_time(open_job: Open) -> None:
    async with open_job():
        with pytest.raises(JobLocked, match=str(os.getpid())):
            async with open_job():
                pass
    async with open_job() as job:
        assert job.epoch == 2


async def test_a_writer_that_no_lock_stops_is_stopped_by_the_manifest(
    open_job: Open, make_trace: MakeTrace, tmp_path: Path
) -> None:
    first = open_job(journal=str(tmp_path / "one"))
    await first.__aenter__()
    await _record_and_publish(first, make_trace(0))
    async with open_job(journal=str(tmp_path / "two")) as second:
        await _record_and_publish(second, make_trace(1))
    with pytest.raises(PublishConflict, match="another run"):
        await first.close()
    assert (first.epoch, second.epoch, second.published.rows) == (1, 2, 1)


async def test_another_identity_is_refused_and_names_what_differs(open_job: Open) -> None:
    async with open_job({"sampling": {"n": 1, "top_p": 0.9}, "prompts": "a"}):
        pass
    with pytest.raises(JobMismatch, match=r"sampling\.n was 1 and is now 2$"):
        async with open_job({"sampling": {"n": 2, "top_p": 0.9}, "prompts": "a"}):
            pass
    async with open_job({"prompts": "a", "sampling": {"top_p": 0.9, "n": 1}}) as job:
        assert job.epoch == 2


async def test_a_rejected_row_is_noted_once_over_all_runs(open_job: Open, make_trace: MakeTrace) -> None:
    async with open_job() as job:
        assert job.reject(BadPromptRow(3, "empty", "x")) is True
        assert job.reject(BadPromptRow(3, "empty", "x")) is False
    async with open_job() as job:
        assert job.published.rejected == 1
        assert job.reject(BadPromptRow(3, "empty", "x")) is False
        assert job.reject(BadPromptRow(4, "empty", "x")) is True
    assert job.published.rejected == 2


async def test_errors_are_in_the_dead_letter_before_they_are_published(
    open_job: Open, make_trace: MakeTrace, tmp_path: Path
) -> None:
    async with open_job() as job:
        await _record_and_publish(job, make_trace(0, error="connection refused"))
        await _record_and_publish(job, make_trace(1))
        await job.flush()
        (letter,) = map(orjson.loads, next(tmp_path.rglob("dead_letter.jsonl")).read_bytes().splitlines())  # noqa: ASYNC240
    assert letter == {
        "kind": "sample",
        "sample_id": "s000000",
        "prompt_id": "p0",
        "row": 1,
        "source": "sums",
        "reason": "connection refused",
        "retries": ["unreachable"],
        "endpoint": None,
        "excerpt": "What is 0 + 1?",
    }


async def test_a_part_is_published_in_time_even_if_no_row_follows(
    open_job: Open, output: OutputSettings, make_trace: MakeTrace
) -> None:
    async with open_job(shard_s=0.01) as job:
        await _record_and_publish(job, make_trace(0))
        async with asyncio.timeout(10):
            while job.published.rows == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert len(traces.part_files(f"{output.path}/job")) == 1


async def test_jobs_that_begin_together_do_not_publish_together(
    output: OutputSettings, make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hundred threads that encode at once keep the interpreter from the event loop for half a second."""
    loop, waits = asyncio.get_running_loop(), []
    call_later = loop.call_later

    def recorded(delay: float, callback: Callable[..., Any], *arguments: Any) -> asyncio.TimerHandle:
        if getattr(callback, "__name__", "") == "cut":
            waits.append(delay)
        return call_later(delay, callback, *arguments)

    monkeypatch.setattr(loop, "call_later", recorded)
    settings = output.model_copy(update={"shard_s": 100.0})
    for number in range(8):
        async with open_job_folder(settings, f"job-{number}", {}, {"n": 1}, "{}", str) as job:
            await _record_and_publish(job, make_trace(2 * number))
            await job.flush()
            await _record_and_publish(job, make_trace(2 * number + 1))
    first, later = waits[::2], waits[1::2]
    assert all(50 <= wait <= 100 for wait in first)
    assert max(first) - min(first) > 20
    assert later == [100.0] * 8


async def test_a_part_that_no_manifest_names_is_deleted_and_never_read(
    open_job: Open, output: OutputSettings, make_trace: MakeTrace
) -> None:
    async with open_job() as job:
        await _record_and_publish(job, make_trace(0))
    destination = open_destination(f"{output.path}/job")
    destination.put("data/part-0009-000001.parquet", b"half")
    assert len(traces.part_files(f"{output.path}/job")) == 1
    async with open_job():
        assert list(destination.sizes("data")) == ["data/part-0001-000001.parquet"]


@pytest.mark.parametrize(("damage", "verify"), [("missing", False), ("longer", False), ("changed", True)])
async def test_a_damaged_part_is_an_error_at_open(
    open_job: Open, output: OutputSettings, make_trace: MakeTrace, damage: str, verify: bool
) -> None:
    async with open_job() as job:
        await _record_and_publish(job, make_trace(0))
    destination = open_destination(f"{output.path}/job")
    name = "data/part-0001-000001.parquet"
    content = destination.read(name)
    if damage == "missing":
        destination.remove(name)
    else:
        destination.put(name, content + b"x" if damage == "longer" else content[:50] + b"?" + content[51:])
    with pytest.raises(StorageError, match="part-0001-000001"):
        async with open_job(verify=verify):
            pass
    destination.put(name, content)
    async with open_job(verify=True) as job:
        assert job.is_done("s000000")


async def test_a_lost_journal_is_said(
    open_job: Open, make_trace: MakeTrace, tmp_path: Path, notices: list[str]
) -> None:
    async with open_job(journal=str(tmp_path / "one")) as job:
        list(job.recovered())
        await _record_and_publish(job, make_trace(0))
    async with open_job(journal=str(tmp_path / "two")) as job:
        assert job.is_done("s000000")
    assert [notice[:31] for notice in notices] == ["the journal of earlier runs is "]


async def test_a_full_disk_while_publishing_waits_and_goes_on(
    tmp_path: Path, open_job: Open, make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch, notices: list[str]
) -> None:
    write = os.pwrite
    refused = 0

    def full(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal refused
        if ".parquet" in os.readlink(f"/proc/self/fd/{descriptor}") and offset > 0 and refused < 1:
            refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[: max(1, len(data) // 2)], offset)

    monkeypatch.setattr(os, "pwrite", full)
    async with open_job() as job:
        monkeypatch.setattr(job._space, "_wait", lambda _: None)
        for number in range(20):
            await _record_and_publish(job, make_trace(number))
    assert job.published.rows == 20
    assert [("waiting for space" in notice, "again" in notice) for notice in notices] == [(True, False), (False, True)]
    async with open_job(verify=True) as job:
        assert job.published.rows == 20


async def test_a_stop_on_a_full_disk_does_not_wait_and_the_next_run_publishes(
    open_job: Open, make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if ".parquet" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    job = open_job()
    await job.__aenter__()
    await _record_and_publish(job, make_trace(0))
    with pytest.raises(StorageError, match="No space left"):
        await job.close(wait_for_space=False)
    monkeypatch.undo()
    async with open_job() as job:
        ((position, trace),) = job.recovered()
        await job.publish(position, _judged(trace))
    assert job.published.rows == 1


async def test_an_error_in_the_block_still_publishes_what_is_finished(open_job: Open, make_trace: MakeTrace) -> None:
    job = open_job()

    async def fail_after_one() -> None:
        async with job:
            await _record_and_publish(job, make_trace(0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_after_one()
    assert job.published.rows == 1
    assert await job.close() == job.published


async def test_a_folder_of_a_job_can_be_opened_again_after_a_refused_open(
    open_job: Open, output: OutputSettings
) -> None:
    async with open_job():
        pass
    for _ in range(3):
        with pytest.raises(JobMismatch):
            async with open_job({"n": 2}):
                pass
    async with open_job() as job:
        assert job.epoch == 2


@pytest.mark.parametrize(
    ("path", "journal", "job_id", "field"),
    [
        ("out", None, "../escape", "job_id"),
        ("out", None, "", "job_id"),
        ("out", None, "x" * 129, "job_id"),
        ("memory://out", None, "job", "output.journal"),
        ("out", "memory://journal", "job", "output.journal"),
    ],
)
def test_an_unusable_place_names_the_field(path: str, journal: str | None, job_id: str, field: str) -> None:
    with pytest.raises(SpecError) as raised:
        open_job_folder(OutputSettings(path=path, journal=journal), job_id, {}, {}, "{}", print)
    assert raised.value.field == field


_CHILD = """
import asyncio, dataclasses
from gen_service.records import Prompt, Sample, Trace, Verdict
from gen_service.settings import OutputSettings
from gen_service.storage.job_folder import open_job_folder

async def main():
    async with open_job_folder(OutputSettings(path={path!r}, shard_rows=20), "job", {{}}, {{}}, "{{}}", print) as job:
        verdict = Verdict("error", "refused")
        for position, trace in list(job.recovered()):
            await job.publish(position, dataclasses.replace(trace, verdict=verdict))
        async def worker(first):
            for number in range(first, 10**6, 16):
                sample = Sample(f"s{{number}}", "job", Prompt("p", (), None, "sums", number + 1), 0)
                trace = Trace(sample, None, None, "refused")
                if not job.is_done(sample.sample_id):
                    position = await job.record(trace)
                    print(sample.sample_id, flush=True)
                    await job.publish(position, dataclasses.replace(trace, verdict=verdict))
        await asyncio.gather(*map(worker, range(16)))

asyncio.run(main())
"""


def test_kill_9_of_a_whole_job_again_and_again(tmp_path: Path, make_trace: MakeTrace) -> None:
    acknowledged: list[str] = []
    for kill in range(3):
        code = _CHILD.format(path=str(tmp_path))
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(50 + 31 * kill)]
        child.kill()
        said += [line for line in child.stdout if line.endswith("\n")]
        child.stdout.close()
        child.wait()
        acknowledged += [line.strip() for line in said]
    assert len(acknowledged) == len(set(acknowledged)) > 150

    async def finish() -> JobFolder:
        output = OutputSettings(path=str(tmp_path))
        async with open_job_folder(output, "job", {}, {}, "{}", lambda _: None, verify=True) as job:
            for position, trace in list(job.recovered()):
                await job.publish(position, _judged(trace, "error"))
        return job

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        job = runner.run(finish())
    rows = [row["sample_id"] for row in traces.read_traces(str(tmp_path / "job"), ["sample_id"])]
    assert len(rows) == len(set(rows)) == job.published.rows
    assert set(acknowledged) <= set(rows)
