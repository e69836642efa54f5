"""SIGINT and SIGTERM in the middle of a job: what is finished is readable at once, and the same command goes on.

Half of the answers come at once and the others only after hours, so a run that waits for them does not end at all.
"""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import datasets
import pytest

from benchmarks.servers import simulated_servers
from benchmarks.trip import ServerLog, exit_code, generating, journaled_ids, published_ids, wait_until, write_spec
from benchmarks.workload import samples_of, sums_spec, write_sums
from gen_service.jobs.job import JobSpec
from gen_service.storage import traces

SAMPLES = 300
ANSWERS = ["--length", "40", "--seed", "1"]
HALF_FOR_HOURS = ["--latency", "3:1000000"]
DONE, INTERRUPTED = 0, 130
FOR_HOURS = 36_000.0


def spec_of(tmp_path: Path, urls: tuple[str, ...], grace_s: float) -> JobSpec:
    prompts = write_sums(tmp_path / "prompts.jsonl", SAMPLES)
    return sums_spec(tmp_path, prompts, urls, pool={"in_flight": SAMPLES, "grace_s": grace_s})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_job_is_readable_at_once_and_the_same_command_continues(
    number: signal.Signals, tmp_path: Path
) -> None:
    words, log = tmp_path / "words.txt", ServerLog(tmp_path / "servers.log")
    arguments = [*ANSWERS, "--log", str(log.path)]
    with simulated_servers([*arguments, *HALF_FOR_HOURS]) as urls:
        spec = spec_of(tmp_path, urls, grace_s=0.5)
        spec_file = write_spec(tmp_path / "spec.json", spec)
        with generating(spec_file, words) as child:
            assert wait_until(lambda: log.read().answered >= 60, child, words), words.read_text()
            child.send_signal(number)
            assert exit_code(child) == INTERRUPTED, words.read_text()
    finished = set(published_ids(spec))
    assert 0 < len(finished) < SAMPLES
    assert set(journaled_ids(spec)) <= finished, "an acknowledged answer was not published"
    assert stopped_rows(spec) == finished
    asked = len(log.read().received)
    with simulated_servers(arguments, port=int(urls[0].rpartition(":")[2])), generating(spec_file, words) as child:
        assert exit_code(child) == DONE, words.read_text()
    assert not finished & set(log.read().received[asked:]), "a published sample was asked for again"
    assert Counter(published_ids(spec)) == Counter(sample.sample_id for sample in samples_of(spec, tmp_path))


def test_a_second_interrupt_ends_the_grace(tmp_path: Path) -> None:
    words, log = tmp_path / "words.txt", ServerLog(tmp_path / "servers.log")
    with simulated_servers([*ANSWERS, *HALF_FOR_HOURS, "--log", str(log.path)]) as urls:
        spec = spec_of(tmp_path, urls, grace_s=FOR_HOURS)
        with generating(write_spec(tmp_path / "spec.json", spec), words) as child:
            assert wait_until(lambda: log.read().answered >= 60, child, words), words.read_text()
            child.send_signal(signal.SIGINT)
            assert wait_until(lambda: "stopping" in words.read_text(), child, words), words.read_text()
            child.send_signal(signal.SIGINT)
            assert exit_code(child) == INTERRUPTED, words.read_text()
    assert set(journaled_ids(spec)) <= set(published_ids(spec))


def stopped_rows(spec: JobSpec) -> set[str]:
    """The sample ids as the `datasets` library reads them from the published files."""
    files = traces.part_files(f"{spec.output.path}/{spec.job_id}")
    rows = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    return {row["sample_id"] for row in rows}
