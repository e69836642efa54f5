"""Steering by verdict on two real vLLM servers: as many problems solved, for a part of the tokens."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gen_service import generate, make_spec, read_traces
from gen_service.endpoints.local_server import LocalServer
from gen_service.jobs.runner import JobReport

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

Servers = tuple[LocalServer, LocalServer]
PROMPTS, SAMPLES = 120, 8


async def run(servers: Servers, prompts: Path, output: Path, name: str, **steering: Any) -> JobReport:
    document = {
        "name": name,
        "prompts": str(prompts),
        "samples": SAMPLES,
        "endpoints": {"urls": [server.url for server in servers], "model": "tiny", "backoff_s": 0.1},
        "sampling": {"temperature": 1.0, "top_p": 1.0, "max_tokens": 256},
        "pool": {"in_flight": 64},
        "steering": steering,
        "output": str(output),
    }
    return await generate(make_spec(document))


def right_by_prompt(report: JobReport) -> Counter[str]:
    return Counter(row["prompt_id"] for row in read_traces(report.folder) if row["verdict"] == "correct")


async def test_until_one_is_right_costs_at_most_six_tenths_of_eight_always(
    vllm_servers: Servers, problem_file: Path, tmp_path: Path
) -> None:
    always = await run(vllm_servers, problem_file, tmp_path, "always")
    until = await run(vllm_servers, problem_file, tmp_path, "until", correct=1)
    assert always.complete
    assert until.complete
    assert (always.published.rows, always.published.skipped) == (PROMPTS * SAMPLES, {})
    skipped = until.published.skipped
    assert skipped.keys() == {"solved"}
    assert until.published.rows + skipped["solved"] == PROMPTS * SAMPLES
    solved_always, solved_until = len(right_by_prompt(always)), len(right_by_prompt(until))
    # Both had up to eight tries at each problem; what they solve differs by chance at the hardest few only.
    assert solved_until >= 0.95 * solved_always
    per_solved = until.published.completion_tokens / solved_until
    assert per_solved <= 0.6 * always.published.completion_tokens / solved_always


async def test_a_larger_target_makes_what_a_smaller_one_skipped(
    vllm_servers: Servers, problem_file: Path, tmp_path: Path
) -> None:
    first = await run(vllm_servers, problem_file, tmp_path, "grows", correct=1)
    second = await run(vllm_servers, problem_file, tmp_path, "grows", correct=2)
    assert second.complete
    assert second.published.rows > first.published.rows
    assert second.published.rows + sum(second.published.skipped.values()) == PROMPTS * SAMPLES
    right, rows = right_by_prompt(second), Counter(row["prompt_id"] for row in read_traces(second.folder))
    assert all(right[prompt_id] >= 2 or made == SAMPLES for prompt_id, made in rows.items())


async def test_a_job_ends_at_so_many_verified_traces_in_all(
    vllm_servers: Servers, problem_file: Path, tmp_path: Path
) -> None:
    report = await run(vllm_servers, problem_file, tmp_path, "verified", verified=100)
    assert report.complete
    assert report.published.by_verdict["correct"] >= 100
    assert report.published.skipped.keys() == {"target_reached"}
    assert report.published.rows + report.published.skipped["target_reached"] == PROMPTS * SAMPLES
