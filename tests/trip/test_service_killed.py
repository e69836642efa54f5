"""kill -9 of the service with three jobs of two tenants running and an upload half sent: it goes on by itself."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import openai
from openai.types import Batch

from benchmarks.servers import simulated_servers
from benchmarks.service_process import make_key, running_service, service_settings
from benchmarks.trip import ServerLog, settle, wait_until
from gen_service import read_traces
from gen_service.remote.client import ServiceClient
from gen_service.wire.jobs import JobRequest, JobView

# Answers take so long that the service is killed with every job in the middle.
ANSWERS = ["--length", "40", "--seed", "3", "--latency", "0.3:1.0:2"]
PROMPTS, SAMPLES, LINES = 300, 2, 600
# More than the service gathers before it writes.
HALF = 1024 * 1024
FINAL = {"completed", "failed", "cancelled", "expired"}
WITHIN_S = 180.0


def native(name: str, offset: int) -> JobRequest:
    rows = [{"prompt": f"What is {n} + {offset}?", "answer": str(n + offset)} for n in range(PROMPTS)]
    return JobRequest.model_validate({"name": name, "prompts": {"rows": rows}, "samples": SAMPLES})


def batch_file() -> tuple[str, bytes]:
    lines = [
        {
            "custom_id": f"line-{n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "simulated", "messages": [{"role": "user", "content": f"What is {n} + 5?"}]},
        }
        for n in range(LINES)
    ]
    return "lines.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines).encode()


def half_upload(url: str, key: str) -> socket.socket:
    """An upload that stops in the middle of its file, its connection left open."""
    at = urlsplit(url)
    assert at.hostname is not None
    body = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\n'
    body += b'Content-Disposition: form-data; name="file"; filename="half.jsonl"\r\n\r\n' + b"{}\n" * (HALF // 3)
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: {at.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {10 * HALF}\r\n\r\n"
    )
    connection = socket.create_connection((at.hostname, at.port or 80))
    connection.sendall(head.encode() + body)
    return connection


async def polled(client: openai.AsyncOpenAI, batch_id: str) -> tuple[Batch, Counter[str]]:
    """The batch when it has ended, and the statuses it showed; no call may fail, however long it takes."""
    seen: Counter[str] = Counter()
    while (batch := await client.batches.retrieve(batch_id)).status not in FINAL:
        seen[batch.status] += 1
        await asyncio.sleep(0.1)
    return batch, seen


async def test_three_jobs_of_two_tenants_go_on_after_kill_9(database_url: str, tmp_path: Path) -> None:
    words, log, data = tmp_path / "words.txt", ServerLog(tmp_path / "servers.log"), tmp_path / "data"
    more = {} if database_url.startswith("sqlite") else {"data__database": database_url}
    with simulated_servers([*ANSWERS, "--log", str(log.path)], servers=2) as urls:
        settings = service_settings(urls, data, fleet__in_flight="48", **more)
        ours, theirs = make_key(settings, "ours"), make_key(settings, "theirs")
        with running_service(settings, words) as first:
            async with (
                ServiceClient(first.url, ours) as we,
                ServiceClient(first.url, theirs) as they,
                # Retries for about two minutes: a restart is a longer wait, nothing else.
                openai.AsyncOpenAI(base_url=f"{first.url}/v1", api_key=theirs, max_retries=40) as client,
            ):
                jobs = [await we.submit(native("one", 3)), await they.submit(native("two", 4))]
                uploaded = await client.files.create(file=batch_file(), purpose="batch")
                batch = await client.batches.create(
                    input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
                )
                polling = asyncio.create_task(polled(client, batch.id))
                half = half_upload(first.url, theirs)
                parts = data / "files"
                await asyncio.to_thread(
                    wait_until,
                    lambda: log.read().answered >= 150 and any(part.stat().st_size for part in parts.glob("*.part")),
                    first.child,
                    words,
                )
                first.kill()
                half.close()
                await asyncio.to_thread(settle, urls)
                log.read()
                # Every job is in the middle: something answered, much left.
                assert 150 <= log.answered < 2 * PROMPTS * SAMPLES + LINES
                assert not polling.done()
                port = {"GEN_SERVICE_HTTP__PORT": str(urlsplit(first.url).port)}
                with running_service(settings | port, words):
                    assert not list(parts.glob("*.part"))
                    async with asyncio.timeout(WITHIN_S):
                        ended = [await we.watch(jobs[0].id), await they.watch(jobs[1].id)]
                        finished, seen = await polling
                    output = (await client.files.content(str(finished.output_file_id))).text
    check_native(ended, data)
    assert finished.status == "completed", finished
    assert finished.request_counts is not None
    assert (finished.request_counts.completed, finished.request_counts.failed) == (LINES, 0)
    assert set(seen) <= {"validating", "in_progress", "finalizing"}
    ids = [json.loads(line)["custom_id"] for line in output.splitlines()]
    assert Counter(ids) == Counter(f"line-{n}" for n in range(LINES))
    assert "half sent" in words.read_text() or "abandoned" in words.read_text(), "the half upload was not reported"
    published = {row["sample_id"] for row in read_traces(str(data / "traces" / "theirs" / batch.id), ["sample_id"])}
    assert len(published) == LINES


def check_native(ended: list[JobView], data: Path) -> None:
    """Every sample of both jobs is published once."""
    for view in ended:
        assert view.state == "completed", view
        assert (view.counts.published, view.counts.samples) == (PROMPTS * SAMPLES, PROMPTS * SAMPLES)
        rows = list(read_traces(str(data / "traces" / view.tenant / view.id), ["sample_id", "prompt_id"]))
        assert len({row["sample_id"] for row in rows}) == len(rows) == PROMPTS * SAMPLES
        assert set(Counter(row["prompt_id"] for row in rows).values()) == {SAMPLES}
