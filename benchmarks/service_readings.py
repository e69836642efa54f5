"""What a running service shows from outside: the lag of its event loop, the memory of its process."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.figures import Figure, counted
from gen_service.metrics import LOOP_LAG

STEP_S = 0.25


@dataclass(frozen=True, slots=True)
class Lag:
    """How late the event loop woke, over the service's life: quantiles from a histogram (the upper bound of the bucket
    that they lie in, so never too small), and the upper bound of the last bucket that anything fell into."""

    p50_s: float
    p99_s: float
    most_s: float


@dataclass(slots=True)
class Memory:
    """Resident bytes of the service's process (its verification workers are others), beside the rows it had made, and
    the CPU seconds that it took meanwhile."""

    rows_now: int = 0
    cpu_s: float = 0.0
    points: list[tuple[int, int]] = field(default_factory=list)

    def figures(self, benchmark: str) -> list[Figure]:
        """The peak, and what the second half of the rows added to the peak of the first."""
        if not self.points:
            return []
        half = self.rows_now / 2
        peak = max(resident for _, resident in self.points)
        first = max((resident for rows, resident in self.points if rows <= half), default=peak)
        return [
            counted(benchmark, "CPU of the service a sample", "ms", [self.cpu_s / max(1, self.rows_now) * 1e3]),
            counted(benchmark, "memory of the service before its first job", "MB", [self.points[0][1] / 1e6]),
            counted(benchmark, "peak memory of the service", "MB", [peak / 1e6]),
            counted(benchmark, "of it, added by the second half of the rows", "MB", [(peak - first) / 1e6]),
        ]


@asynccontextmanager
async def watch_memory(pid: int, memory: Memory) -> AsyncIterator[None]:
    """Note the memory and the CPU time of a process while the block runs."""
    process = psutil.Process(pid)
    before = sum(process.cpu_times()[:2])

    async def watch() -> None:
        while True:
            memory.points.append((memory.rows_now, process.memory_info().rss))
            await asyncio.sleep(STEP_S)

    task = asyncio.create_task(watch())
    try:
        yield
        memory.cpu_s = sum(process.cpu_times()[:2]) - before
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def read_lag(url: str, key: str) -> Lag:
    """The lag so far, from /metrics."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(headers=headers, raise_for_status=True) as session,
        session.get(f"{url}/metrics") as response,
    ):
        text = await response.text()
    return lag_of(buckets_of(text, LOOP_LAG.name))


def buckets_of(text: str, name: str) -> dict[float, float]:
    """Upper bound -> how many up to it, of a histogram in Prometheus' text form."""
    return {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"{name}_bucket"
    }


def lag_of(buckets: Mapping[float, float]) -> Lag:
    """The quantiles of a histogram."""

    def quantile(share: float) -> float:
        return min((bound for bound, count in buckets.items() if count >= share * total), default=math.nan)

    total = max(buckets.values(), default=0.0)
    return Lag(quantile(0.5), quantile(0.99), quantile(1.0))
