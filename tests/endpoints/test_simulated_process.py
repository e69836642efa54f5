"""The simulated server as a process of its own."""

import asyncio
import signal
import sys
from pathlib import Path

import aiohttp
import orjson
import pytest

from gen_service.endpoints.simulated import Fixed, LogNormal
from gen_service.endpoints.simulated.__main__ import distribution, lengths, main
from gen_service.endpoints.simulated.lengths import Lengths


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


def test_lengths_are_written_as_numbers() -> None:
    assert lengths("6000:0.9:32768:0.7", 3) == Lengths(6000.0, 32768, 0.9, 0.7, 3)
    with pytest.raises(ValueError, match="MEAN:SIGMA:CAP:RHO"):
        lengths("6000:0.9", 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "{kv_blocks: 0}"], "profile.kv_blocks"),
        (["--engine", "{kv_blocks: 5}"], "max_model_len=32768 does not fit"),
        (["--time-scale", "0"], "time_scale"),
        (["--lengths", "6000:0.9:100:0.7"], "lengths.mean"),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


async def test_two_engines_in_one_process_answer_in_scaled_time() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gen_service.endpoints.simulated", "--port", "0", "--servers", "2"),
        *("--engine", "r1-distill-32b-tp2-h100", "--time-scale", "1000", "--lengths", "600:0.9:1000:0.7"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    _, *urls = (await process.stdout.readline()).decode().split()
    texts, readings = [], []
    async with aiohttp.ClientSession() as client:
        for url in urls:
            body = {"messages": [{"role": "user", "content": "1 + 2"}]}
            async with client.post(f"{url}/v1/chat/completions", json=body) as response:
                answer = await response.json()
                texts.append((answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]))
            async with client.get(f"{url}/metrics") as response:
                readings.append(await response.text())
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == 0
    assert texts[0] == texts[1]
    tokens = texts[0][1]
    for text in readings:
        assert f'vllm:generation_tokens_total{{engine="0",model_name="simulated"}} {tokens}' in text
        assert 'block_size="16",num_gpu_blocks="25000"' in text
