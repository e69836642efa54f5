"""A full disk: the job pauses and says so, loses nothing, and goes on by itself when there is room."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.servers import simulated_servers
from benchmarks.trip import (
    ServerLog,
    exit_code,
    generating,
    journal_is_whole,
    journaled_ids,
    published_ids,
    wait_until,
    write_spec,
)
from benchmarks.workload import samples_of, sums_spec, write_sums
from gen_service.storage import traces

SAMPLES = 400
ROOM_BYTES = 512 * 1024
WAITING, AGAIN = "waiting for space", "again"
FAILED = 1


def leave_room(disk: Path, room: int) -> Path:
    """A ballast file that leaves only `room` bytes."""
    space = os.statvfs(disk)
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - room)
    return ballast


def places(full: str, small_disk: Path, tmp_path: Path) -> dict[str, str]:
    """The journal or the published part on the small disk, the other one elsewhere."""
    small, large = str(small_disk / "disk"), str(tmp_path / "large")
    return {"journal": small, "path": large} if full == "journal" else {"journal": large, "path": small}


@pytest.mark.parametrize("full", ["journal", "published"])
def test_a_full_disk_pauses_the_job_and_nothing_is_lost(full: str, small_disk: Path, tmp_path: Path) -> None:
    output = places(full, small_disk, tmp_path)
    words, log = tmp_path / "words.txt", ServerLog(tmp_path / "servers.log")
    prompts = write_sums(tmp_path / "prompts.jsonl", SAMPLES)
    with simulated_servers(["--length", "2000", "--stream-interval", "100", "--log", str(log.path)]) as urls:
        spec = sums_spec(tmp_path, prompts, urls, output={**output, "shard_rows": 100}, pool={"in_flight": 16})
        ballast = leave_room(small_disk, ROOM_BYTES)
        with generating(write_spec(tmp_path / "spec.json", spec), words) as child:
            assert wait_until(lambda: WAITING in words.read_text(), child, words), words.read_text()
            # Each new try may leave a part of a frame for a moment.
            assert wait_until(lambda: journal_is_whole(spec), child, words), words.read_text()
            durable = {*journaled_ids(spec), *published_ids(spec)}
            assert len(durable) < SAMPLES
            ballast.unlink()
            assert exit_code(child) == 0, words.read_text()
    assert AGAIN in words.read_text()
    rows = Counter(published_ids(spec))
    assert rows == Counter(sample.sample_id for sample in samples_of(spec, tmp_path))
    assert durable <= rows.keys()
    assert Counter(log.read().received) == rows, "a sample was asked for twice"
    folder = f"{spec.output.path}/{spec.job_id}"
    assert traces.published_counts(folder).by_verdict == {"correct": SAMPLES}


@pytest.mark.parametrize("full", ["journal", "published"])
def test_a_job_told_twice_to_end_does_not_wait_for_room(full: str, small_disk: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    prompts = write_sums(tmp_path / "prompts.jsonl", SAMPLES)
    output = {**places(full, small_disk, tmp_path), "shard_rows": 100}
    with simulated_servers(["--length", "2000", "--stream-interval", "100"]) as urls:
        spec = sums_spec(tmp_path, prompts, urls, output=output, pool={"in_flight": 16, "grace_s": 36_000})
        spec_file = write_spec(tmp_path / "spec.json", spec)
        ballast = leave_room(small_disk, ROOM_BYTES)
        with generating(spec_file, words) as child:
            assert wait_until(lambda: WAITING in words.read_text(), child, words), words.read_text()
            child.send_signal(signal.SIGINT)
            assert wait_until(lambda: "stopping" in words.read_text(), child, words), words.read_text()
            child.send_signal(signal.SIGINT)
            assert exit_code(child) == FAILED, words.read_text()
        assert "No space left" in words.read_text()
        ballast.unlink()
        durable = {*journaled_ids(spec), *published_ids(spec)}
        with generating(spec_file, words) as child:
            assert exit_code(child) == 0, words.read_text()
    rows = Counter(published_ids(spec))
    assert rows == Counter(sample.sample_id for sample in samples_of(spec, tmp_path))
    assert durable <= rows.keys()
