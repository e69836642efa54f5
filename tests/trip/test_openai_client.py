"""The unmodified `openai` client against the real service on real vLLM servers; and `gen-service submit --watch`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pyarrow.parquet as pq
import pytest
import pytest_asyncio
from openai.types import Batch

from benchmarks.service_process import ServiceProcess, make_key, running_service, service_settings
from gen_service import read_traces
from gen_service.endpoints.local_server import LocalServer
from gen_service.tiny_model.problems import prompt_rows

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

Servers = tuple[LocalServer, LocalServer]
FINAL = {"completed", "failed", "cancelled", "expired"}
WITHIN_S = 240.0
LINES = 80


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def service(vllm_servers: Servers, folder: Path) -> AsyncIterator[tuple[ServiceProcess, str]]:
    """The service and a key of tenant `lab`."""
    settings = service_settings([server.url for server in vllm_servers], folder / "data", fleet__in_flight="64")
    key = make_key(settings, "lab")
    with running_service(settings, folder / "words.txt") as process:
        yield process, key


@pytest_asyncio.fixture(loop_scope="session")
async def client(service: tuple[ServiceProcess, str]) -> AsyncIterator[openai.AsyncOpenAI]:
    process, key = service
    async with openai.AsyncOpenAI(base_url=f"{process.url}/v1", api_key=key) as opened:
        yield opened


def chat_line(custom_id: str, prompt: str, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    body = {"model": "tiny", "messages": messages, "max_tokens": 256, "temperature": 1.0} | body
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def as_file(lines: list[dict[str, Any]]) -> tuple[str, bytes]:
    return "requests.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines).encode()


async def finished(client: openai.AsyncOpenAI, batch_id: str) -> Batch:
    async with asyncio.timeout(WITHIN_S):
        while (batch := await client.batches.retrieve(batch_id)).status not in FINAL:
            await asyncio.sleep(0.2)
    return batch


async def lines_of(client: openai.AsyncOpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    assert file_id is not None
    text = (await client.files.content(file_id)).text
    rows = [json.loads(line) for line in text.splitlines()]
    assert len({row["custom_id"] for row in rows}) == len(rows)
    return {row["custom_id"]: row for row in rows}


async def test_a_batch_from_upload_to_download(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["tiny"]
    problems = list(prompt_rows("held_out", LINES, seed=21))
    lines = [chat_line(f"request-{index}", row["prompt"]) for index, row in enumerate(problems)]
    lines.append(chat_line("three", problems[0]["prompt"], n=3))
    lines.append(chat_line("too-long", "What is 1 + 1? " * 2000))
    lines.append(chat_line("not-possible", "What is 1 + 1?", logprobs=True))
    uploaded = await client.files.create(file=as_file(lines), purpose="batch")
    assert (uploaded.filename, uploaded.purpose, uploaded.bytes) == ("requests.jsonl", "batch", len(as_file(lines)[1]))
    created = await client.batches.create(
        input_file_id=uploaded.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"purpose": "journey"},
    )
    assert created.status in {"validating", "in_progress"}
    batch = await finished(client, created.id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (LINES + 3, LINES + 1, 2)
    assert batch.metadata == {"purpose": "journey"}
    done = await lines_of(client, batch.output_file_id)
    assert set(done) == {line["custom_id"] for line in lines} - {"too-long", "not-possible"}
    right = 0
    for index, row in enumerate(problems):
        response = done[f"request-{index}"]["response"]
        assert response["status_code"] == 200
        answer = openai.types.chat.ChatCompletion.model_validate(response["body"])
        (choice,) = answer.choices
        assert choice.finish_reason in {"stop", "length"}
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0
        right += f"\\boxed{{{row['answer']}}}" in (choice.message.content or "")
    assert right > LINES // 2
    three = openai.types.chat.ChatCompletion.model_validate(done["three"]["response"]["body"])
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    failed = await lines_of(client, batch.error_file_id)
    assert set(failed) == {"too-long", "not-possible"}
    assert {row["response"]["status_code"] for row in failed.values()} == {400}
    assert "2048" in json.dumps(failed["too-long"]["response"]["body"]["error"])
    assert "logprobs" in json.dumps(failed["not-possible"]["response"]["body"]["error"])
    assert created.id in [one.id async for one in client.batches.list(limit=2)]
    with pytest.raises(openai.ConflictError):
        await client.batches.cancel(created.id)
    assert uploaded.id in [one.id async for one in client.files.list(purpose="batch")]
    assert (await client.files.delete(uploaded.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(uploaded.id)


async def test_a_batch_of_plain_completions(client: openai.AsyncOpenAI, vllm_servers: Servers) -> None:
    lines = [
        {
            "custom_id": f"plain-{index}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": "tiny", "prompt": f"What is {index} + 2?", "max_tokens": 8, "temperature": 0.0},
        }
        for index in range(6)
    ]
    uploaded = await client.files.create(file=as_file(lines), purpose="batch")
    created = await client.batches.create(
        input_file_id=uploaded.id, endpoint="/v1/completions", completion_window="24h"
    )
    batch = await finished(client, created.id)
    assert (batch.status, batch.error_file_id) == ("completed", None)
    done = await lines_of(client, batch.output_file_id)
    async with openai.AsyncOpenAI(base_url=f"{vllm_servers[0].url}/v1", api_key="none") as direct:
        for line in lines:
            answer = openai.types.Completion.model_validate(done[line["custom_id"]]["response"]["body"])
            expected = await direct.completions.create(**line["body"])
            assert answer.choices[0].text == expected.choices[0].text


async def test_a_batch_with_wrong_lines_fails_and_names_them(client: openai.AsyncOpenAI) -> None:
    lines = [chat_line("twice", "What is 1 + 1?"), chat_line("twice", "What is 2 + 2?")]
    uploaded = await client.files.create(file=as_file(lines), purpose="batch")
    created = await client.batches.create(
        input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    batch = await finished(client, created.id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(error.code, error.line) for error in batch.errors.data] == [("duplicate_custom_id", 2)]
    with pytest.raises(openai.BadRequestError):
        await client.batches.create(
            input_file_id="file-that-is-not", endpoint="/v1/chat/completions", completion_window="24h"
        )


async def test_a_cancelled_batch_keeps_what_is_done(client: openai.AsyncOpenAI) -> None:
    problems = prompt_rows("held_out", 4_000, seed=23)
    lines = [chat_line(f"request-{index}", row["prompt"]) for index, row in enumerate(problems)]
    uploaded = await client.files.create(file=as_file(lines), purpose="batch")
    created = await client.batches.create(
        input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    async with asyncio.timeout(WITHIN_S):
        while True:
            batch = await client.batches.retrieve(created.id)
            if batch.request_counts is not None and batch.request_counts.completed >= 20:
                break
            assert batch.status in {"validating", "in_progress"}
            await asyncio.sleep(0.1)
    cancelling = await client.batches.cancel(created.id)
    assert cancelling.status in {"cancelling", "cancelled"}
    batch = await finished(client, created.id)
    assert batch.status == "cancelled"
    done = await lines_of(client, batch.output_file_id)
    assert batch.request_counts is not None
    assert 20 <= len(done) == batch.request_counts.completed < 4_000
    # A client may ask again when it did not hear the answer.
    assert (await client.batches.cancel(created.id)).status == "cancelled"


async def test_a_job_by_submit_and_watch(
    service: tuple[ServiceProcess, str], problem_file: Path, tmp_path: Path
) -> None:
    process, key = service
    spec = tmp_path / "job.yaml"
    spec.write_text(
        json.dumps(
            {
                "prompts": {"path": str(problem_file)},
                "samples": 2,
                "model": "tiny",
                "sampling": {"temperature": 1.0, "top_p": 1.0, "max_tokens": 256},
            }
        ),
        encoding="utf-8",
    )
    environment = os.environ | {"GEN_SERVICE_URL": process.url, "GEN_SERVICE_KEY": key, "COLUMNS": "200"}

    async def run(*arguments: str) -> str:
        child = await asyncio.create_subprocess_exec(
            *[sys.executable, "-c", "from gen_service.cli import main; main()", *arguments],
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, errors = await asyncio.wait_for(child.communicate(), WITHIN_S)
        assert child.returncode == 0, errors.decode()
        return out.decode()

    said = await run("submit", str(spec), "--watch")
    job_id = next(word for word in said.split() if word.startswith("job-"))
    assert "completed" in said
    assert job_id in await run("jobs")
    await run("download", job_id, "--output", str(tmp_path / "traces"))
    files = list((tmp_path / "traces").rglob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert len({row["sample_id"] for row in rows}) == len(rows) == 240
    assert sum(row["verdict"] == "correct" for row in rows) > 120
    kept = list(read_traces(str(next((process_folder(process) / "traces" / "lab").glob(job_id)))))
    assert {row["sample_id"] for row in kept} == {row["sample_id"] for row in rows}


def process_folder(process: ServiceProcess) -> Path:
    """The data folder of the service."""
    return process.words.parent / "data"
