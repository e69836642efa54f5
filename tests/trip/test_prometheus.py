"""A real Prometheus scrapes the real service: each declared name has series, promtool finds nothing to say."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.servers import simulated_servers
from benchmarks.service_process import running_service, service_settings
from gen_service.metrics import DECLARED
from gen_service.remote.client import ServiceClient
from gen_service.wire.jobs import JobRequest

TOOLS = Path(sys.prefix) / "tools"
PROMPTS = 40
WITHIN_S = 120.0
HISTOGRAM = ("_bucket", "_count", "_sum")


def tool(name: str) -> str:
    """Where a binary is that `make tools` fetched, or that was there before."""
    found = shutil.which(name, path=str(TOOLS)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is neither on PATH nor in {TOOLS}: `make tools` could not get it")
    return found


def job(model: str) -> JobRequest:
    rows = [{"prompt": f"What is {n} + 5?", "answer": str(n + 5)} for n in range(PROMPTS)]
    return JobRequest.model_validate({"prompts": {"rows": rows}, "model": model})


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One that runs, asked over its HTTP API."""

    api: httpx.AsyncClient
    words: Path

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector of an expression; empty where it has none, or Prometheus is not ready."""
        try:
            answer = await self.api.get("/api/v1/query", params={"query": expression})
        except httpx.TransportError:
            return []
        if answer.status_code == 503:
            return []
        assert answer.status_code == 200, answer.text
        return list(answer.json()["data"]["result"])

    async def value(self, expression: str) -> float:
        """Of an expression that has one series."""
        (one,) = await self.query(expression)
        return float(one["value"][1])

    async def until(self, expression: str, enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """What an expression gives, once that is enough."""
        found: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(WITHIN_S):
                while not enough(found := await self.query(expression)):
                    await asyncio.sleep(0.2)
        except TimeoutError:
            pytest.fail(f"{expression} gave {found}; prometheus said: {self.words.read_text()[-2000:]}")
        return found


@asynccontextmanager
async def prometheus(target: str, folder: Path) -> AsyncIterator[Prometheus]:
    """Scrapes `target` (host:port) every second."""
    binary, words = tool("prometheus"), folder / "prometheus.txt"
    scrape = {"job_name": "gen-service", "static_configs": [{"targets": [target]}]}
    config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [scrape]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with words.open("wb") as log:
        child = await asyncio.create_subprocess_exec(
            *(binary, *options, f"--web.listen-address={address}", "--log.level=warn"), stdout=log, stderr=log
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as api:
            yield Prometheus(api, words)
    finally:
        child.terminate()
        await child.wait()


async def test_a_real_prometheus_has_series_of_every_declared_name(tmp_path: Path) -> None:
    tool("prometheus")
    quick = simulated_servers(["--model", "quick", "--length", "2000", "--latency", "0.05"])
    silent = simulated_servers(["--model", "silent", "--first-token", "36000"])
    words = tmp_path / "service.txt"
    with quick as (first,), silent as (second,):
        settings = service_settings((first, second), tmp_path / "data", fleet__grace_s="0", verifier__workers="1")
        with running_service(settings, words) as service:
            target = service.url.removeprefix("http://")
            async with ServiceClient(service.url, None) as client, prometheus(target, tmp_path) as scraper:
                async with asyncio.timeout(WITHIN_S):
                    done = await client.watch((await client.submit(job("quick"))).id)
                assert done.state == "completed"
                held = await client.submit(job("silent"))
                await scraper.until(f'gen_service_job_in_flight{{job_id="{held.id}"}} == {PROMPTS}', bool)
                await shows_every_declared_name(scraper)
                await shows_what_was_done(scraper, first, second)
                promtool_has_nothing_to_say(await text_of(service.url))
                await client.cancel(held.id)
                await scraper.until('gen_service_jobs{state="cancelled"} == 1', bool)
                assert await scraper.query("gen_service_job_in_flight") == []


async def shows_every_declared_name(scraper: Prometheus) -> None:
    """Both ways: nothing is missing, and nothing is there that is not declared."""
    series = await scraper.query('count by (__name__) ({__name__=~"gen_service_.+"})')
    expected = {
        f"{declared.name}{ending}"
        for declared in DECLARED
        for ending in (HISTOGRAM if declared.kind == "histogram" else ("",))
    }
    assert {one["metric"]["__name__"] for one in series} == expected
    assert await scraper.value('up{job="gen-service"}') == 1


async def shows_what_was_done(scraper: Prometheus, quick: str, silent: str) -> None:
    """The numbers of one job that ended and one that waits for its first token."""
    assert await scraper.value('gen_service_verdicts_total{verdict="correct"}') == PROMPTS
    assert await scraper.value("gen_service_published_rows_total") == PROMPTS
    assert await scraper.value(f'gen_service_server_answers_total{{server="{quick}"}}') == PROMPTS
    assert await scraper.value(f'gen_service_in_flight{{server="{silent}"}}') == PROMPTS
    assert await scraper.value('gen_service_jobs{state="running"}') == 1
    assert 1536 < await scraper.value("histogram_quantile(0.5, gen_service_trace_tokens_bucket)") <= 2048
    assert await scraper.value("process_resident_memory_bytes") > 0


async def text_of(url: str) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{url}/metrics")
    assert answer.status_code == 200
    return answer.text


def promtool_has_nothing_to_say(exposition: str) -> None:
    """Its linter knows the naming conventions."""
    checked = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=exposition, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
