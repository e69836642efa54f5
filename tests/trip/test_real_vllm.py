"""Whole journeys on two real vLLM servers: what the product promises, seen from outside."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
import datasets
import pytest

from gen_service import generate, make_spec, part_files, read_traces
from gen_service.endpoints.client import Client
from gen_service.endpoints.draft import Draft
from gen_service.endpoints.local_server import LocalServer
from gen_service.endpoints.question import Questions
from gen_service.jobs.audit import audit
from gen_service.jobs.job import JobSpec
from gen_service.jobs.runner import RunningJob
from gen_service.jobs.summary import summarize
from gen_service.records import Prompt, Sample
from gen_service.tiny_model import CHECKPOINT
from gen_service.tiny_model.problems import prompt_rows

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

Servers = tuple[LocalServer, LocalServer]


def job(servers: Servers, prompts: Path, output: Path, **more: Any) -> JobSpec:
    document: dict[str, Any] = {
        "name": "trip",
        "prompts": str(prompts),
        "endpoints": {"urls": [server.url for server in servers], "model": "tiny", "backoff_s": 0.1},
        "sampling": {"temperature": 1.0, "top_p": 1.0, "max_tokens": 256},
        "pool": {"in_flight": 64},
        "output": str(output),
    }
    return make_spec(document | more)


async def test_the_main_job_from_the_command_line(
    vllm_servers: Servers, problem_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "job.yaml"
    document = job(vllm_servers, problem_file, tmp_path / "traces", samples=2).model_dump(mode="json")
    spec.write_text(json.dumps(document), encoding="utf-8")
    command = [sys.executable, "-c", "from gen_service.cli import main; main()", "generate", str(spec)]
    first = await asyncio.create_subprocess_exec(*command, env=os.environ | {"COLUMNS": "200"})
    assert await first.wait() == 0
    assert "240" in capfd.readouterr().out
    folder = tmp_path / "traces" / "trip"
    rows = list(read_traces(str(folder)))
    assert len({row["sample_id"] for row in rows}) == len(rows) == 240
    assert {row["endpoint"] for row in rows} == {server.url for server in vllm_servers}
    assert audit(make_spec(document)).sound
    for row in rows:
        assert row["completion_tokens"] == len(row["token_ids"]) > 0
        assert row["verdict"] in {"correct", "incorrect", "no_answer", "truncated", "unparsable"}
    assert all(row["reasoning"] and "<think>" not in row["content"] for row in rows if row["verdict"] == "correct")
    pass_at_1 = summarize(str(folder)).pass_at(1)
    assert pass_at_1 is not None
    assert 0.5 < pass_at_1 < 0.97
    read = datasets.load_dataset("parquet", data_files=part_files(str(folder)), cache_dir=str(tmp_path / "cache"))
    assert read["train"].num_rows == 240
    again = await asyncio.create_subprocess_exec(*command, env=os.environ | {"COLUMNS": "200"})
    assert await again.wait() == 0
    assert "nothing to do" in capfd.readouterr().out


async def test_the_server_counts_the_tokens_the_tokenizer_counts(vllm_servers: Servers) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(CHECKPOINT)
    texts = [row["prompt"] for row in prompt_rows("held_out", 6, seed=5)]
    texts += ["Tab\tand\nnewline, a  double space and a trailing one ", r"\frac{1}{2} ≤ é 漢字 😀"]
    async with aiohttp.ClientSession() as session:
        for text in texts:
            messages = [{"role": "user", "content": text}]
            body = {"model": "tiny", "messages": messages, "max_tokens": 12, "return_token_ids": True}
            async with session.post(f"{vllm_servers[0].url}/v1/chat/completions", json=body) as response:
                answer = await response.json()
            expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
            assert answer["prompt_token_ids"] == list(expected["input_ids"])
            message = answer["choices"][0]["message"]["content"]
            assert tokenizer.decode(answer["choices"][0]["token_ids"], skip_special_tokens=True) == message


async def test_the_fleet_can_read_what_a_server_says_of_itself(vllm_servers: Servers, tmp_path: Path) -> None:
    spec = job(vllm_servers, tmp_path / "unused.jsonl", tmp_path)
    row = next(iter(prompt_rows("held_out", 1, seed=11)))
    sample = Sample("r", "trip", Prompt("p", ({"role": "user", "content": row["prompt"]},), None, "test", 1), 0)
    async with Client(spec.endpoints) as client:
        before = await client.readings(vllm_servers[0].url)
        draft = Draft()
        await client.stream(vllm_servers[0].url, "tiny", Questions(spec.sampling).of(sample), draft, 200)
        after = await client.readings(vllm_servers[0].url)
    assert before.kv_tokens is not None
    assert before.kv_tokens == after.kv_tokens > 2048
    assert (after.running, after.waiting, after.preemptions) == (0, 0, 0.0)
    assert after.kv_usage is not None
    assert 0.0 <= after.kv_usage < 1.0
    assert before.completed is not None
    assert after.completed == before.completed + 1
    assert before.generated_tokens is not None
    assert after.generated_tokens == before.generated_tokens + len(draft.token_ids)


async def test_an_answer_taken_up_from_its_tokens_is_the_answer_that_was_cut(
    vllm_servers: Servers, problem_file: Path, tmp_path: Path
) -> None:
    spec = job(vllm_servers, problem_file, tmp_path, sampling={"temperature": 0.0, "top_p": 1.0, "max_tokens": 200})
    row = next(iter(prompt_rows("held_out", 1, seed=11)))
    sample = Sample("s", "trip", Prompt("p", ({"role": "user", "content": row["prompt"]},), None, "test", 1), 0)
    async with Client(spec.endpoints) as client:
        question, whole = Questions(spec.sampling).of(sample), Draft()
        await client.stream(vllm_servers[0].url, "tiny", question, whole, 200)
        assert len(whole.token_ids) > 12
        for cut in (1, 5, len(whole.token_ids) - 1):
            draft = Draft()
            short = Questions(spec.sampling.model_copy(update={"max_tokens": cut})).of(sample)
            await client.stream(vllm_servers[0].url, "tiny", short, draft, cut)
            assert (draft.finish_reason, len(draft.token_ids)) == ("length", cut)
            draft = draft.reopened()
            await client.stream(vllm_servers[1].url, "tiny", question, draft, 200)
            assert (draft.token_ids, draft.text()) == (whole.token_ids, whole.text())


async def test_truncated_answers_go_on_when_the_policy_says_so(
    vllm_servers: Servers, problem_file: Path, tmp_path: Path
) -> None:
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 8}
    truncation = {"policy": "continue", "extra_tokens": 300}
    spec = job(vllm_servers, problem_file, tmp_path, sampling=sampling, truncation=truncation)
    report = await generate(spec)
    rows = list(read_traces(report.folder))
    assert len(rows) == 120
    assert all(row["continued"] == 1 and row["completion_tokens"] > 8 for row in rows)
    assert sum(row["verdict"] == "correct" for row in rows) > 40


async def test_what_does_not_fit_ends_in_an_error_row_with_the_servers_words(
    vllm_servers: Servers, tmp_path: Path
) -> None:
    rows = [{"id": "fits", "prompt": "What is 12 + 34?", "answer": "46"}]
    rows += [{"id": "long", "prompt": "What is 1 + 1? " * 2000, "answer": "2"}]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    report = await generate(job(vllm_servers, prompts, tmp_path))
    by_id = {row["prompt_id"]: row for row in read_traces(report.folder)}
    assert by_id["fits"]["error"] is None
    assert by_id["long"]["verdict"] == "error"
    assert "2048" in by_id["long"]["error"]
    dead = [json.loads(line) for line in (Path(report.folder) / "dead_letter.jsonl").read_text().splitlines()]
    assert [letter["prompt_id"] for letter in dead] == ["long"]


async def test_a_server_killed_and_started_again_costs_no_sample(vllm_servers: Servers, tmp_path: Path) -> None:
    rows = [json.dumps(row) for row in prompt_rows("held_out", 600, seed=12)]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(rows), encoding="utf-8")
    spec = job(vllm_servers, prompts, tmp_path, samples=2)
    notices: list[str] = []
    running: list[RunningJob] = []
    task = asyncio.create_task(generate(spec, on_notice=notices.append, on_start=running.append))
    while not (running and running[0].fleet and all(one.completed > 4 for one in running[0].fleet.endpoints)):
        await asyncio.sleep(0.05)
    fleet = running[0].fleet
    assert fleet is not None
    survivor, victim = fleet.endpoints
    # Slow the job down until the server is back: it is the return that is tested, not the survivor's speed.
    fleet.places.limit = 2
    await vllm_servers[1].kill()
    while victim.state == "healthy":
        await asyncio.sleep(0.05)
    assert survivor.state == "healthy"
    await vllm_servers[1].start()
    while victim.state != "healthy":
        await asyncio.sleep(0.05)
    completed = victim.completed
    fleet.places.limit = 64
    report = await task
    assert victim.completed > completed
    assert any("ejected" in words and victim.url in words for words in notices)
    assert report.published.rows == 1200
    assert report.published.by_verdict.get("error", 0) == 0
    found = audit(spec)
    assert (found.sound, found.published) == (True, 1200)
