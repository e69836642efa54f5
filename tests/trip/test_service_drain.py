"""SIGTERM under load: not ready at once, the running samples get their grace, exit 0, nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

import httpx

from benchmarks.servers import simulated_servers
from benchmarks.service_process import running_service, service_settings
from benchmarks.trip import ServerLog, journaled_ids, published_ids, wait_until
from gen_service import make_spec
from gen_service.jobs.job import JobSpec
from gen_service.remote.client import ServiceClient
from gen_service.wire.jobs import JobRequest

PROMPTS = 300
ANSWERS = ["--length", "40", "--seed", "1"]
# Half of the answers come within seconds, the others only after hours.
HALF_FOR_HOURS = ["--latency", "3:1000000"]
WITHIN_S = 180.0


def job(offset: int) -> JobRequest:
    rows = [{"prompt": f"What is {n} + {offset}?", "answer": str(n + offset)} for n in range(PROMPTS)]
    return JobRequest.model_validate({"prompts": {"rows": rows}})


async def test_a_service_told_to_end_drains_and_goes_on_at_the_next_start(tmp_path: Path) -> None:
    words, log, data = tmp_path / "words.txt", ServerLog(tmp_path / "servers.log"), tmp_path / "data"
    arguments = [*ANSWERS, "--log", str(log.path)]
    with simulated_servers([*arguments, *HALF_FOR_HOURS]) as urls:
        settings = service_settings(urls, data, fleet__in_flight="600", fleet__grace_s="3")
        with running_service(settings, words) as service:
            async with ServiceClient(service.url, None) as client, httpx.AsyncClient(base_url=service.url) as door:
                jobs = [await client.submit(job(offset)) for offset in (1, 2)]
                assert (await door.get("/readyz")).status_code == 200
                await asyncio.to_thread(wait_until, lambda: log.read().answered >= 120, service.child, words)
                service.child.send_signal(signal.SIGTERM)
                # The signal is taken up by the loop, so at the latest after the request that was already there.
                ready = [(await door.get("/readyz")).status_code for _ in range(2)]
                assert ready[-1] == 503, ready
                refused = await door.post("/api/v1/jobs", json=job(9).model_dump(mode="json"))
                assert refused.status_code == 503
                assert int(refused.headers["Retry-After"]) > 0
                assert (await door.get("/healthz")).status_code == 200
            assert await asyncio.to_thread(service.exit_code) == 0, words.read_text()
    finished = {one.id: set(published(data, one.id)) for one in jobs}
    answered = sum(len(ids) for ids in finished.values())
    assert 120 <= answered < 2 * PROMPTS
    for one in jobs:
        assert set(journaled_ids(as_spec(data, one.id))) <= finished[one.id], "an acknowledged answer is not readable"
    asked = len(log.read().received)
    port = int(urls[0].rpartition(":")[2])
    with simulated_servers(arguments, port=port), running_service(settings, words) as service:
        async with ServiceClient(service.url, None) as client, asyncio.timeout(WITHIN_S):
            ended = [await client.watch(one.id) for one in jobs]
    assert [view.state for view in ended] == ["completed", "completed"]
    done = {sample for ids in finished.values() for sample in ids}
    assert not done & set(log.read().received[asked:]), "a published sample was asked for again"
    for one in jobs:
        assert Counter(Counter(published(data, one.id)).values()) == Counter({1: PROMPTS})


def as_spec(data: Path, job_id: str) -> JobSpec:
    """As much of the job's spec as tells where its files lie."""
    output = str(data / "traces" / "default")
    return make_spec({"name": job_id, "prompts": "-", "endpoints": "http://unused", "output": output})


def published(data: Path, job_id: str) -> list[str]:
    """The sample ids of a job's rows."""
    return published_ids(as_spec(data, job_id))
