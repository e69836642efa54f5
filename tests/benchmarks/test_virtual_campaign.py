"""The campaign in virtual time: a few seeds of it, and that it sees a promise broken."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from benchmarks import virtual_campaign
from benchmarks.checked_folder import BrokenPromise, CheckedFolder
from benchmarks.fleet_jobs import SimulatedJob
from benchmarks.virtual_campaign import run_seed
from gen_service.endpoints.endpoint import Endpoint
from gen_service.records import Skipped, Trace, Verdict


@pytest.mark.parametrize("seed", range(6))
def test_every_promise_holds_while_servers_fail_and_the_controller_is_killed(seed: int) -> None:
    outcome = run_seed(seed, samples=2000)
    assert outcome.failure == ""
    assert outcome.rows + outcome.skipped == 2000
    assert outcome.runs >= 1


def test_the_same_seed_is_the_same_run() -> None:
    first, again = run_seed(11, samples=600), run_seed(11, samples=600)
    assert first.failure == ""
    assert (first.virtual_s, first.rows, first.retries) == (again.virtual_s, again.rows, again.retries)


def test_wrong_tokens_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(sample_id: str, start: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return np.arange(start + 1, end + 1, dtype=np.int32)

    monkeypatch.setattr(virtual_campaign, "expected_ids", shifted)
    assert "4: sample" in run_seed(1, samples=200).failure


def test_a_limit_that_is_not_kept_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Endpoint, "has_room", lambda self, now: self.state in ("healthy", "trial"))
    failures = [run_seed(seed, samples=2000).failure for seed in range(3)]
    assert any("3: " in failure for failure in failures), failures


def test_a_seed_that_fails_says_how_to_replay_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(seed: int, samples: int) -> virtual_campaign.Outcome:
        return virtual_campaign.Outcome(seed, samples, failure="broken")

    monkeypatch.setattr(virtual_campaign, "run_seed", fails)
    monkeypatch.setattr(virtual_campaign, "ProcessPoolExecutor", Inline)
    assert virtual_campaign.main(["--seeds", "7", "--samples", "50"]) == 1
    printed = capsys.readouterr()
    assert "replay: python -m benchmarks.virtual_campaign --seeds 7 --samples 50" in printed.err
    assert '"failed": [\n    7\n  ]' in printed.out


class Inline:
    """An executor without processes, which see no patches."""

    def __init__(self, workers: int) -> None:
        self.map = map

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *_: object) -> None:
        return


async def test_the_folder_takes_nothing_twice() -> None:
    folder = CheckedFolder()
    sample = next(SimulatedJob("job", 1, 1).all_samples())
    trace = Trace(sample, None, error="gone")
    position = await folder.record(trace)
    assert folder.is_done(sample.sample_id)
    with pytest.raises(BrokenPromise, match="second time"):
        await folder.record(trace)
    with pytest.raises(BrokenPromise, match="skipped as well"):
        folder.skip(Skipped(sample.sample_id, "p", 0, "solved"))
    with pytest.raises(BrokenPromise, match="without a verdict"):
        await folder.publish(position, trace)
    await folder.publish(position, Trace(sample, None, Verdict("error", "gone"), error="gone"))
    assert (folder.journaled, folder.outcomes()) == (0, {"error": 1})


async def test_a_write_that_a_kill_interrupts_left_nothing() -> None:
    folder = CheckedFolder(record_s=10.0)
    trace = Trace(next(SimulatedJob("job", 1, 1).all_samples()), None, error="gone")
    writing = asyncio.ensure_future(folder.record(trace))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait({writing})
    assert not folder.is_done(trace.sample.sample_id)
    assert list(folder.recovered()) == []
