"""Crashes at every change that a run makes on disk: each sample still ends in exactly one row, or is skipped once."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gen_service.errors import BadPromptRow
from gen_service.records import Skipped, Trace, Verdict
from gen_service.settings import OutputSettings
from gen_service.storage import traces
from gen_service.storage.destination import open_destination
from gen_service.storage.frames import JournalPosition
from gen_service.storage.job_folder import JobFolder, open_job_folder
from gen_service.storage.manifest import load
from gen_service.storage.skipped import read_skipped

MakeTrace = Callable[..., Trace]

SAMPLES = 24
CHANGES = ("pwrite", "fdatasync", "fsync", "ftruncate", "replace", "link", "unlink")


class Crash:
    """Copies a folder at the n-th change that is made to it: what a machine that dies there would leave.

    The change itself is half done (a write) or not yet (all others). Of the journal's bytes that were not synced a
    given share is lost. No other change goes on meanwhile.
    """

    def __init__(self, folder: Path, at: int, lost: float, acknowledged: set[str]) -> None:
        self.copy = folder.with_name(folder.name + "x")
        self.acknowledged: set[str] | None = None
        self._folder = folder
        self._at = at
        self._lost = lost
        self._acknowledging = acknowledged
        self._changes = 0
        self._synced: dict[str, int] = {}
        self._lock = threading.RLock()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in CHANGES:
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, change: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            with self._lock:
                self._changes += 1
                if self._changes == self._at:
                    if name == "pwrite":
                        descriptor, data, offset = arguments
                        change(descriptor, data[: len(data) // 2], offset)
                    self._take_copy()
                result = change(*arguments, **named)
                if name == "fdatasync":
                    path = os.readlink(f"/proc/self/fd/{arguments[0]}")
                    self._synced[Path(path).name] = os.fstat(arguments[0]).st_size
                return result

        return watched

    def _take_copy(self) -> None:
        self._at = 0
        self.acknowledged = set(self._acknowledging)
        shutil.copytree(self._folder, self.copy)
        for segment in self.copy.rglob("*.log"):
            size, synced = segment.stat().st_size, self._synced.get(segment.name)
            if synced is not None and size > synced:
                os.truncate(segment, size - round(self._lost * (size - synced)))


def _run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(work)


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run does before it crashes, or ends."""

    crash_at: int
    lost: float
    samples: frozenset[int]
    unpublished: frozenset[int]
    skipped: frozenset[int]
    flushes: bool


_NUMBERS = st.frozensets(st.integers(0, SAMPLES - 1))
RUNS = st.builds(Run, st.integers(1, 90), st.floats(0, 1), _NUMBERS, _NUMBERS, _NUMBERS, st.booleans())


class Life:
    """A job over several runs."""

    def __init__(self, root: Path, make_trace: MakeTrace) -> None:
        self._root = root
        self._folders = 0
        self._make_trace = make_trace
        self.folder = root / "0"
        self.acknowledged: set[str] = set()

    def open(self) -> JobFolder:
        output = OutputSettings(path=str(self.folder), shard_rows=5)
        return open_job_folder(output, "job", {}, {"n": 1}, "{}", lambda _: None, steering="targets")

    async def run(self, plan: Run) -> None:
        async with self.open() as job:
            assert all(map(job.is_done, self.acknowledged))
            for position, trace in list(job.recovered()):
                if trace.sample.prompt.row - 1 not in plan.unpublished:
                    await self._publish(job, position, trace)
            job.reject(BadPromptRow(1000, "bad"))
            await asyncio.gather(*(self._sample(job, number, plan) for number in sorted(plan.samples)))
            if plan.flushes:
                await job.flush()

    async def _sample(self, job: JobFolder, number: int, plan: Run) -> None:
        trace = self._make_trace(number, error="refused" if number % 5 == 0 else None)
        if number in plan.skipped and not job.is_done(trace.sample.sample_id):
            job.skip(Skipped(trace.sample.sample_id, trace.sample.prompt.prompt_id, trace.sample.index, "solved"))
        if not job.is_done(trace.sample.sample_id):
            position = await job.record(trace)
            self.acknowledged.add(trace.sample.sample_id)
            if number not in plan.unpublished:
                await self._publish(job, position, trace)

    @staticmethod
    async def _publish(job: JobFolder, position: JournalPosition, trace: Trace) -> None:
        verdict = Verdict("correct", "") if trace.error is None else Verdict("error", trace.error)
        await job.publish(position, dataclasses.replace(trace, verdict=verdict))

    def run_until_crash(self, plan: Run) -> None:
        crash = Crash(self.folder, plan.crash_at, plan.lost, self.acknowledged)
        with pytest.MonkeyPatch.context() as monkeypatch:
            crash.install(monkeypatch)
            _run(self.run(plan))
        if crash.acknowledged is not None:
            self.folder = crash.copy
            self.acknowledged = crash.acknowledged

    def finish(self) -> None:
        _run(self.run(Run(0, 0, frozenset(range(SAMPLES)), frozenset(), frozenset({22, 23}), True)))


def _check_finished(life: Life) -> None:
    path = life.folder / "job"
    rows = list(traces.read_traces(str(path)))
    skipped = [row["sample_id"] for row in read_skipped(str(path))]
    ids = [row["sample_id"] for row in rows]
    assert sorted([*ids, *skipped]) == [f"s{number:06}" for number in range(SAMPLES)]
    counts = traces.published_counts(str(path))
    assert (counts.rows, sum(counts.skipped.values()), counts.rejected) == (len(rows), len(skipped), 1)
    assert {str(file) for file in (path / "data").iterdir()} == set(traces.part_files(str(path)))
    letters = [orjson.loads(line) for line in (path / "dead_letter.jsonl").read_bytes().splitlines()]
    files = {file.name for file in (path / "skipped").iterdir()} if skipped else set()
    named = {Path(part.file).name for one in load(open_destination(str(path))) for part in one.skipped}
    assert files == named
    errors = [one for one in sorted(ids) if int(one[1:]) % 5 == 0]
    assert sorted(letter.get("sample_id", "") for letter in letters) == ["", *errors]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(RUNS, min_size=1, max_size=4))
def test_every_sample_ends_in_exactly_one_row_whatever_crashes(
    quick_disk: Path, make_trace: MakeTrace, runs: list[Run]
) -> None:
    life = Life(Path(tempfile.mkdtemp(dir=quick_disk)), make_trace)
    life.folder.mkdir()
    for run in runs:
        life.run_until_crash(run)
    life.finish()
    _check_finished(life)


def test_a_crash_at_each_change_in_turn_loses_nothing(quick_disk: Path, make_trace: MakeTrace) -> None:
    crashes = 0
    for at in range(1, 300, 3):
        life = Life(quick_disk / str(at), make_trace)
        life.folder.mkdir(parents=True)
        plan = Run(at, 1.0, frozenset(range(0, SAMPLES, 2)), frozenset({2, 3}), frozenset({6, 7, 8, 20}), at % 2 == 0)
        life.run_until_crash(plan)
        if life.folder.name == "0":
            break
        crashes += 1
        life.finish()
        _check_finished(life)
    assert crashes > 10
