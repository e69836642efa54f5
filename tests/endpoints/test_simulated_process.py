"""The simulated server as a process of its own."""

import asyncio
import signal
import sys
from pathlib import Path

import aiohttp
import orjson
import pytest

from gen_service.endpoints.simulated import Fixed, LogNormal
from gen_service.endpoints.simulated.__main__ import distribution


async def test_two_servers_in_one_process_answer_alike_and_end_on_sigterm(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gen_service.endpoints.simulated", "--port", "0", "--servers", "2"),
        *("--seed", "3", "--length", "200", "--unit", "bytes", "--log", str(log)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    word, *urls = (await process.stdout.readline()).decode().split()
    assert word == "ready"
    texts = []
    async with aiohttp.ClientSession() as client:
        for url in urls:
            body = {"messages": [{"role": "user", "content": "1 + 2"}]}
            async with client.post(f"{url}/v1/chat/completions", json=body) as response:
                message = (await response.json())["choices"][0]["message"]
                texts.append(message["reasoning"] + message["content"])
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 0
    assert len(urls) == 2
    assert texts[0] == texts[1]
    assert len(texts[0]) == 200
    events = [orjson.loads(line)["event"] for line in log.read_bytes().splitlines()]
    assert events == ["received", "sent"] * 2


def test_distributions_are_written_as_numbers() -> None:
    assert distribution("5") == Fixed(5.0)
    assert distribution("0.5:3.4") == LogNormal(0.5, 3.4)
    assert distribution("0.5:3.4:4.1") == LogNormal(0.5, 3.4, 4.1)
    with pytest.raises(ValueError):
        distribution("1:2:3:4")
