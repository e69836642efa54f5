"""How busy the simulated fleet is kept: deterministic in virtual time, so a test can hold its figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import fleet
from benchmarks.fleet_plot import plot


def measured(name: str, samples_per_prompt: int, seed: int = 1) -> fleet.Run:
    way, watermark, patience = fleet.WAYS[name]
    return fleet.measure(name, way, seed, samples_per_prompt, watermark, patience)


def test_eight_samples_a_prompt_keep_it_busy_to_the_last_token() -> None:
    run = measured("ours", 8)
    assert run.utilisation >= 0.88
    assert run.tail_s <= 300.0
    assert run.recomputed is not None
    assert run.recomputed <= 0.11


def test_one_sample_a_prompt_keeps_it_busy_though_nothing_is_known_of_lengths() -> None:
    run = measured("ours", 1)
    assert run.utilisation >= 0.86
    assert run.recomputed is not None
    assert run.recomputed <= 0.11


@pytest.mark.parametrize("samples_per_prompt", [1, 8])
def test_with_a_second_job_it_is_busy_until_the_last_tail(samples_per_prompt: int) -> None:
    run = measured("ours, second job queued", samples_per_prompt)
    assert run.before_tail >= 0.96
    assert run.utilisation > measured("ours", samples_per_prompt).utilisation


def test_the_loops_of_the_post_leave_it_idle_or_compute_twice() -> None:
    gather, stream = measured("gather-500", 1), measured("streaming-500", 1)
    assert gather.utilisation < 0.6
    assert gather.preemptions == 0
    assert stream.recomputed is not None
    assert stream.recomputed > 0.5
    assert stream.tail_s > 600.0


def test_the_same_seed_is_the_same_run_and_another_is_another() -> None:
    first, again, other = (measured("gather-500", 8, seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    plot(path, {"n=1": [("ours", ((0.0, 0.5), (10.0, 1.0)))], "n=8": [("ours", ((0.0, 0.9), (10.0, 0.4)))]})
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 5_000
