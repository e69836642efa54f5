"""Measures an engine from outside, over HTTP: steady decode steps, prefills, and a closed loop of requests."""

from __future__ import annotations

import asyncio
import random
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

import aiohttp
import orjson

from benchmarks.calibration_fit import Prefill, Step
from benchmarks.closed_loop import Asked, Ran
from gen_service.endpoints.readings import Readings, readings_of

LOOK_S = 0.25
_CACHE = re.compile(rb'^vllm:cache_config_info\{.*?block_size="(\d+)".*?num_gpu_blocks="(\d+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Target:
    """A server to be measured. Prompts are drawn from `ids`, each prompt another one."""

    session: aiohttp.ClientSession
    url: str
    model: str
    ids: range
    random: random.Random = field(default_factory=lambda: random.Random(1))

    def prompt(self, tokens: int) -> list[int]:
        """A new prompt."""
        return self.random.choices(self.ids, k=tokens)

    async def readings(self) -> Readings:
        """What /metrics say now."""
        return readings_of(await self._metrics())

    async def cache(self) -> tuple[int, int]:
        """Tokens in a block, and blocks, by cache_config_info (which the readings give as their product)."""
        found = _CACHE.search(await self._metrics())
        if found is None:
            raise RuntimeError(f"{self.url}/metrics does not hold vllm:cache_config_info")
        return int(found[1]), int(found[2])

    async def _metrics(self) -> bytes:
        async with self.session.get(f"{self.url}/metrics") as response:
            return await response.read()


@dataclass(slots=True)
class Streamed:
    """When the tokens of one answer came: loop seconds, and how many there were by then."""

    sent_at: float
    at: list[float] = field(default_factory=list)
    made: list[int] = field(default_factory=list)


async def ask(target: Target, prompt: Sequence[int], tokens: int) -> Streamed:
    """One streamed answer of exactly so many tokens.

    Raises:
        RuntimeError: it is an error, or shorter.
    """
    clock = asyncio.get_running_loop().time
    body = {"model": target.model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 1.0}
    streamed, made = Streamed(clock()), 0
    data = orjson.dumps(body | {"stream": True, "return_token_ids": True})
    headers = {"Content-Type": "application/json", "X-Request-Id": f"calibration-{target.random.random()}"}
    async with target.session.post(f"{target.url}/v1/completions", data=data, headers=headers) as response:
        if response.status != 200:
            raise RuntimeError(f"{target.url}: HTTP {response.status}: {(await response.text())[:500]}")
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            choices: list[dict[str, Any]] = orjson.loads(line[6:])["choices"]
            if choices and (new := len(choices[0].get("token_ids") or ())):
                made += new
                streamed.at.append(clock())
                streamed.made.append(made)
    if made != tokens:
        raise RuntimeError(f"{target.url}: {made} tokens came of {tokens}")
    return streamed


async def measure_steps(target: Target, batch: int, prompt_tokens: int, tokens: int) -> Step:
    """The time of a decode step, from when all of `batch` streams have begun to when the first of them ends.

    Args:
        tokens: of each answer; enough for a few chunks in that time.
    """
    streams = await asyncio.gather(*(ask(target, target.prompt(prompt_tokens), tokens) for _ in range(batch)))
    began, ended = max(one.at[0] for one in streams), min(one.at[-1] for one in streams)
    seconds, live = [], []
    for one in streams:
        first, last = bisect_left(one.at, began), bisect_right(one.at, ended) - 1
        if first < last:
            seconds.append((one.at[last] - one.at[first]) / (one.made[last] - one.made[first]))
            live.append(prompt_tokens + (one.made[first] + one.made[last]) / 2)
    if not seconds:
        raise RuntimeError(f"batch {batch}: no stream had two chunks while all ran; take more than {tokens} tokens")
    return Step(batch, fmean(live), fmean(seconds))


async def measure_prefill(target: Target, prompt_tokens: int, repeats: int) -> Prefill:
    """The median time to the only token of a request that is alone."""
    streams = [await ask(target, target.prompt(prompt_tokens), 1) for _ in range(repeats)]
    return Prefill(prompt_tokens, median(one.at[0] - one.sent_at for one in streams))


async def measure_workload(target: Target, workload: Sequence[Asked], in_flight: int) -> Ran:
    """A closed loop on the server, with what its /metrics say meanwhile."""
    running: list[int] = []
    order: list[int] = []

    async def look() -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            running.append((await target.readings()).running or 0)

    numbers = iter(range(len(workload)))

    async def work() -> None:
        for number in numbers:
            asked = workload[number]
            await ask(target, target.prompt(asked.prompt_tokens), asked.tokens)
            order.append(number)

    before = (await target.readings()).preemptions or 0.0
    looking = asyncio.create_task(look())
    clock = asyncio.get_running_loop().time
    began = clock()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    seconds = clock() - began
    looking.cancel()
    preemptions = ((await target.readings()).preemptions or 0.0) - before
    tokens = sum(asked.tokens for asked in workload)
    return Ran(seconds, tokens, round(preemptions), fmean(running) if running else 0.0, tuple(order))
