"""Samples that are not made: each is accounted for once, whatever dies in between."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
import textwrap
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from gen_service.errors import SpecError, StorageError
from gen_service.records import Outcome, Skipped, SkipReason, Trace, Verdict
from gen_service.settings import OutputSettings
from gen_service.storage import shards, skipped, traces
from gen_service.storage.destination import open_destination
from gen_service.storage.job_folder import JobFolder, open_job_folder
from gen_service.storage.manifest import Part, load
from gen_service.storage.skipped import read_skipped

MakeTrace = Callable[..., Trace]
Open = Callable[..., JobFolder]


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> OutputSettings:
    if request.param == "local":
        return OutputSettings(path=str(tmp_path / "out"))
    return OutputSettings(path=f"memory://{uuid.uuid4().hex}", journal=str(tmp_path / "journal"))


@pytest.fixture
def open_job(output: OutputSettings) -> Open:
    def open_one(steering: str = "one", *, keep_outcomes: bool = False, **changes: object) -> JobFolder:
        settings = output.model_copy(update=changes)
        return open_job_folder(
            settings, "job", {}, {"n": 1}, "{}", lambda _: None, steering=steering, keep_outcomes=keep_outcomes
        )

    return open_one


def skip(number: int, reason: SkipReason = "solved") -> Skipped:
    return Skipped(f"s{number:06}", f"p{number // 4}", number % 4, reason)


async def publish(job: JobFolder, trace: Trace, outcome: Outcome = "correct") -> None:
    position = await job.record(trace)
    await job.publish(position, dataclasses.replace(trace, verdict=Verdict(outcome, "by test")))


def skipped_ids(output: OutputSettings) -> list[str]:
    return sorted(row["sample_id"] for row in read_skipped(f"{output.path}/job"))


async def test_a_skipped_sample_is_done_and_read_back_with_its_reason(
    open_job: Open, output: OutputSettings, make_trace: MakeTrace
) -> None:
    async with open_job() as job:
        await publish(job, make_trace(0))
        job.skip(skip(1))
        job.skip(skip(2, "given_up"))
        assert [job.is_done(f"s{number:06}") for number in range(4)] == [True, True, True, False]
        assert [job.is_skipped(f"s{number:06}") for number in range(4)] == [False, True, True, False]
    assert job.published.skipped == {"solved": 1, "given_up": 1}
    assert (job.published.rows, job.published.samples) == (1, 3)
    assert list(read_skipped(f"{output.path}/job"))[1] == {
        "job_id": "job",
        "sample_id": "s000002",
        "prompt_id": "p0",
        "sample_index": 2,
        "reason": "given_up",
    }
    assert traces.published_counts(f"{output.path}/job") == job.published
    assert [row["sample_id"] for row in traces.read_traces(f"{output.path}/job")] == ["s000000"]
    async with open_job() as job:
        assert [job.is_skipped(f"s{number:06}") for number in range(4)] == [False, True, True, False]
        assert job.is_done("s000002")
        assert job.published.skipped == {"solved": 1, "given_up": 1}


async def test_a_sample_ends_in_a_row_or_is_skipped_and_never_both(open_job: Open, make_trace: MakeTrace) -> None:
    async with open_job() as job:
        await publish(job, make_trace(0))
        job.skip(skip(1))
        for number in (0, 1):
            with pytest.raises(StorageError, match="done already"):
                job.skip(skip(number))
        with pytest.raises(StorageError, match="recorded already"):
            await job.record(make_trace(1))
    assert (job.published.rows, job.published.skipped) == (1, {"solved": 1})


async def test_what_is_skipped_is_committed_in_time_even_if_nothing_is_published(open_job: Open) -> None:
    async with open_job(shard_s=0.01) as job:
        for number in range(3):
            job.skip(skip(number))
            async with asyncio.timeout(10):
                while job.published.samples <= number:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        assert job.published.skipped == {"solved": 3}
        assert job.published.parts == 0


async def test_a_flush_commits_what_is_skipped_with_the_rows_it_followed_from(
    open_job: Open, output: OutputSettings, make_trace: MakeTrace
) -> None:
    async with open_job() as job:
        await publish(job, make_trace(0))
        job.skip(skip(1))
        published = await job.flush()
        assert (published.rows, published.skipped) == (1, {"solved": 1})
        last = load(open_destination(f"{output.path}/job"))[-1]
        assert (len(last.parts), len(last.skipped), last.steering) == (1, 1, "one")
        before = len(load(open_destination(f"{output.path}/job")))
        await job.flush()
        assert len(load(open_destination(f"{output.path}/job"))) == before


async def test_a_skip_is_committed_with_or_after_the_rows_it_follows_from(
    open_job: Open, output: OutputSettings, make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, close = threading.Event(), shards.OpenPart.close

    def close_late(part: shards.OpenPart) -> Part:
        may_go_on.wait()
        return close(part)

    monkeypatch.setattr(shards.OpenPart, "close", close_late)
    async with open_job(shard_rows=2) as job:
        for number in range(3):
            await publish(job, make_trace(number))
        # It follows from the third row, while the first two are being published.
        job.skip(skip(3))
        may_go_on.set()
    commits = [
        (sum(part.rows for part in one.parts), len(one.skipped)) for one in load(open_destination(f"{output.path}/job"))
    ]
    assert commits == [(0, 0), (2, 0), (1, 1)]


async def test_a_sample_that_was_skipped_while_its_journal_was_elsewhere_gets_no_row(
    open_job: Open, output: OutputSettings, make_trace: MakeTrace, tmp_path: Path
) -> None:
    async with open_job(journal=str(tmp_path / "one")) as job:
        await job.record(make_trace(0))
        await job.record(make_trace(1))
    async with open_job(journal=str(tmp_path / "two")) as job:
        job.skip(skip(0))
    async with open_job(journal=str(tmp_path / "one")) as job:
        for position, trace in job.recovered():
            await job.publish(position, dataclasses.replace(trace, verdict=Verdict("correct", "by test")))
    assert [row["sample_id"] for row in traces.read_traces(f"{output.path}/job")] == ["s000001"]
    async with open_job(journal=str(tmp_path / "one")) as job:
        assert list(job.recovered()) == []
        assert (job.published.rows, job.published.skipped) == (1, {"solved": 1})


async def test_many_are_written_before_their_commit_while_a_part_of_rows_is_open(
    open_job: Open, output: OutputSettings, make_trace: MakeTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skipped, "BATCH_ROWS", 10)
    monkeypatch.setattr(shards, "GROUP_ROWS", 2)
    async with open_job() as job:
        for number in range(5):
            await publish(job, make_trace(number))
        for number in range(5, 40):
            job.skip(skip(number))
            await job.keep_up()
        assert job.published.samples == 0
        await publish(job, make_trace(40))
    assert (job.published.rows, job.published.parts, job.published.skipped) == (6, 1, {"solved": 35})
    assert skipped_ids(output) == [f"s{number:06}" for number in range(5, 40)]
    assert len(open_destination(f"{output.path}/job").sizes("skipped")) > 1
    ids = {row["sample_id"] for row in traces.read_traces(f"{output.path}/job")}
    assert ids == {f"s{number:06}" for number in (*range(5), 40)}


async def test_under_other_targets_what_was_skipped_is_open_again(
    open_job: Open, output: OutputSettings, make_trace: MakeTrace
) -> None:
    async with open_job("one") as job:
        for number in range(4):
            job.skip(skip(number))
    async with open_job("two") as job:
        assert job.published.skipped == {}
        assert not any(job.is_done(f"s{number:06}") for number in range(4))
        await publish(job, make_trace(0))
        job.skip(skip(1, "given_up"))
    assert (job.published.rows, job.published.skipped) == (1, {"given_up": 1})
    assert skipped_ids(output) == ["s000001"]
    async with open_job("one") as job:
        assert [job.is_done(f"s{number:06}") for number in range(4)] == [True, False, False, False]
        for number in range(1, 4):
            job.skip(skip(number))
    assert (job.published.rows, job.published.skipped, job.published.samples) == (1, {"solved": 3}, 4)
    async with open_job("") as job:
        assert [job.is_done(f"s{number:06}") for number in range(4)] == [True, False, False, False]
    assert (job.published.skipped, skipped_ids(output)) == ({}, [])


async def test_a_job_that_steers_for_nothing_is_written_as_before(
    open_job: Open, output: OutputSettings, make_trace: MakeTrace
) -> None:
    async with open_job("") as job:
        await publish(job, make_trace(0))
    destination = open_destination(f"{output.path}/job")
    trees = [orjson.loads(destination.read(name)) for name in sorted(destination.sizes("manifest"))]
    assert [(tree["version"], "skipped" in tree, "steering" in tree) for tree in trees] == [(1, False, False)] * 2
    async with open_job("one") as job:
        job.skip(skip(1))
    trees = [orjson.loads(destination.read(name)) for name in sorted(destination.sizes("manifest"))]
    assert [tree["version"] for tree in trees] == [1, 1, 2, 2]


async def test_what_was_right_is_known_over_runs(open_job: Open, make_trace: MakeTrace) -> None:
    outcomes: list[Outcome] = ["correct", "incorrect", "ungradable", "error"]
    async with open_job(keep_outcomes=True) as job:
        for number, outcome in enumerate(outcomes):
            await publish(job, make_trace(number), outcome)
        await job.record(make_trace(4))
        assert [job.is_correct(f"s{number:06}") for number in range(5)] == [True, False, False, False, False]
    async with open_job(keep_outcomes=True) as job:
        assert [job.is_correct(f"s{number:06}") for number in range(5)] == [True, False, False, False, False]
        assert [job.is_ungradable(f"s{number:06}") for number in range(5)] == [False, False, True, False, False]
        ((position, trace),) = job.recovered()
        await job.publish(position, dataclasses.replace(trace, verdict=Verdict("correct", "")))
        assert job.is_correct("s000004")
    async with open_job() as job:
        with pytest.raises(ValueError, match="keep_outcomes"):
            job.is_correct("s000000")


async def test_a_skipped_part_that_no_manifest_names_is_deleted(open_job: Open, output: OutputSettings) -> None:
    async with open_job() as job:
        job.skip(skip(0))
    destination = open_destination(f"{output.path}/job")
    destination.put("skipped/part-0009-000001.parquet", b"half")
    assert skipped_ids(output) == ["s000000"]
    async with open_job():
        assert list(destination.sizes("skipped")) == ["skipped/part-0001-000001.parquet"]
    destination.remove("skipped/part-0001-000001.parquet")
    with pytest.raises(StorageError, match=r"skipped/part-0001-000001\.parquet is missing"):
        async with open_job():
            pass
    with pytest.raises(StorageError, match="named by a manifest, but is not there"):
        skipped_ids(output)


def test_no_job_is_an_error_that_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="expected a job folder"):
        list(read_skipped(str(tmp_path)))


_KILLED = """
    import asyncio, dataclasses, os, signal, sys
    from gen_service.records import Prompt, Sample, Skipped, Trace, Verdict
    from gen_service.settings import OutputSettings
    from gen_service.storage.job_folder import open_job_folder

    async def main(path: str, kill_at: int) -> None:
        output = OutputSettings(path=path, shard_rows=4)
        job = await open_job_folder(output, "job", {}, {}, "{}", print, steering="one", keep_outcomes=True).__aenter__()
        steps = 0
        def step() -> None:
            nonlocal steps
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        for position, trace in list(job.recovered()):
            await job.publish(position, dataclasses.replace(trace, verdict=Verdict("correct", "")))
            step()
        for number in range(12):
            prompt = Prompt(f"p{number}", (), "1", "test", 1)
            samples = [Sample(f"{number}-{index}", "job", prompt, index) for index in range(4)]
            left = [one for one in samples if not job.is_done(one.sample_id)]
            if not any(job.is_correct(one.sample_id) for one in samples):
                trace = Trace(left.pop(0), None, error="as good as any row")
                position = await job.record(trace)
                step()
                await job.publish(position, dataclasses.replace(trace, verdict=Verdict("correct", "")))
            for one in left:
                job.skip(Skipped(one.sample_id, prompt.prompt_id, one.index, "solved"))
                step()
            if number % 5 == 4:
                await job.flush()
        await job.close()

    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_a_kill_between_skipping_and_its_commit_loses_no_count(quick_disk: Path) -> None:
    for kill_at in (3, 17, 40, 47):
        folder = quick_disk / str(kill_at)
        command = [sys.executable, "-c", textwrap.dedent(_KILLED), str(folder)]
        first = subprocess.run([*command, str(kill_at)], check=False, capture_output=True, text=True)
        second = subprocess.run([*command, "0"], check=False, capture_output=True, text=True)
        assert (first.returncode, second.returncode) == (-9, 0), second.stderr
        path = str(folder / "job")
        counts = traces.published_counts(path)
        assert (counts.rows, counts.skipped) == (12, {"solved": 36})
        rows = Counter(row["sample_id"] for row in [*traces.read_traces(path), *read_skipped(path)])
        assert rows == Counter(f"{number}-{index}" for number in range(12) for index in range(4))
