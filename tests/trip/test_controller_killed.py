"""kill -9 of the controller in the middle of long answers: the same command goes on from their tokens."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from benchmarks.servers import simulated_servers
from benchmarks.trip import ServerLog, exit_code, generating, settle, wait_until, write_spec
from benchmarks.workload import samples_of, sums_spec, write_sums
from gen_service import read_traces
from gen_service.endpoints.readings import readings_of
from gen_service.jobs.job import JobSpec
from gen_service.storage.job_places import places
from gen_service.storage.partial_codec import decode
from gen_service.storage.partial_segments import read_rows
from gen_service.storage.segments import segment_numbers, segment_path

SAMPLES, LENGTH, INTERVAL, KILLED_AT = 12, 1500, 250, 700
# At 100 tokens/s an answer takes 15 s, and 100 tokens come in the second that a partial may wait for its commit.
ANSWERS = ["--length", str(LENGTH), "--unit", "tokens", "--stream-interval", "10", "--seed", "5"]


def kept_on_disk(spec: JobSpec) -> dict[str, int]:
    """How many tokens of each sample are in a durable partial."""
    folder = places(spec.output, spec.job_id).partials
    kept: dict[str, int] = {}
    for number in segment_numbers(folder):
        for row in read_rows(segment_path(folder, number), lambda words: None):
            record = decode(row)
            kept[record.sample_id] = len(record.ids) + (record.after.counts[0] if record.after else 0)
    return kept


def tokens_made(urls: Sequence[str]) -> int:
    """Completion tokens that the servers made."""
    made = 0.0
    for url in urls:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
            made += readings_of(response.read()).generated_tokens or 0.0
    return int(made)


def spec_in(folder: Path, urls: Sequence[str]) -> JobSpec:
    """The same job, in another folder and with other servers."""
    folder.mkdir(exist_ok=True)
    prompts = write_sums(folder / "prompts.jsonl", SAMPLES)
    return sums_spec(folder, prompts, urls, endpoints={"partial_tokens": INTERVAL}, verification={"workers": 1})


def answers(spec: JobSpec) -> dict[str, tuple[str | None, str, list[int]]]:
    """Text and token ids of each sample."""
    rows = read_traces(places(spec.output, spec.job_id).published)
    return {row["sample_id"]: (row["reasoning"], row["content"], list(row["token_ids"])) for row in rows}


def test_long_answers_go_on_from_what_was_kept_of_them(tmp_path: Path) -> None:
    words, log = tmp_path / "words.txt", ServerLog(tmp_path / "servers.log")
    with simulated_servers([*ANSWERS, "--rate", "100", "--log", str(log.path)], servers=2) as urls:
        spec = spec_in(tmp_path, urls)
        file = write_spec(tmp_path / "spec.json", spec)
        ids = [sample.sample_id for sample in samples_of(spec, tmp_path)]
        with generating(file, words) as child:
            wait_until(lambda: all(kept_on_disk(spec).get(one, 0) >= KILLED_AT for one in ids), child, words)
            child.kill()
            exit_code(child)
        settle(urls)
        assert log.read().answered == 0, "an answer was whole before the kill"
        kept = kept_on_disk(spec)
        with generating(file, words) as child:
            assert exit_code(child) == 0, words.read_text()
        made = tokens_made(urls)
    received = [line for line in map(json.loads, log.path.read_text().splitlines()) if line["event"] == "received"]
    assert {line["request_id"]: line["given"] for line in received[SAMPLES:]} == kept
    rows = list(read_traces(places(spec.output, spec.job_id).published))
    assert sorted(row["sample_id"] for row in rows) == sorted(ids)
    assert {(row["completion_tokens"], row["continued"], row["error"]) for row in rows} == {(LENGTH, 1, None)}
    made_twice = made - SAMPLES * LENGTH
    assert 0 <= made_twice < SAMPLES * INTERVAL
    assert not places(spec.output, spec.job_id).partials.exists()
    with (
        simulated_servers([*ANSWERS, "--rate", "100000"]) as urls,
        generating(
            write_spec(tmp_path / "again.json", undisturbed := spec_in(tmp_path / "undisturbed", urls)), words
        ) as child,
    ):
        assert exit_code(child) == 0, words.read_text()
    assert answers(spec) == answers(undisturbed)
