"""`make bench-fleet`: how busy four replicas are kept, in virtual time, by the loops of the Open-R1 post and by ours.

Everything but the engines is real: pool, order, fleet, limit, shares. Utilisation is completion tokens per second over
what the engines make with the KV cache exactly full and nothing preempted, over the whole job with its tail. The tail
is what is left when the last request has been sent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import fleet_loops
from benchmarks.checked_folder import CheckedFolder
from benchmarks.fleet_jobs import ChanceVerifier, SimulatedJob, run_job
from benchmarks.fleet_loops import Sender, Watched
from benchmarks.fleet_plot import plot
from gen_service.endpoints.fleet import Fleet
from gen_service.endpoints.simulated.engine_profile import R1_DISTILL_32B_TP2_H100
from gen_service.endpoints.simulated.lengths import Lengths
from gen_service.endpoints.simulated.virtual_servers import Patience, VirtualServer, VirtualServers
from gen_service.endpoints.simulated.virtual_time import run_in_virtual_time
from gen_service.records import Sample
from gen_service.settings import EndpointSettings, OrderSettings, PoolSettings, SamplingSettings

SERVERS: Final = 4
SAMPLES: Final = 4000
PROMPT_TOKENS: Final = 200
WATERMARK: Final = 0.1
LOOK_S: Final = 10.0
OF_SECOND_JOB: Final = "second"


@dataclass(frozen=True, slots=True)
class Run:
    """What one way of sending 4,000 samples came to.

    Attributes:
        utilisation: of the whole run; `before_tail` until the last request was sent.
        recomputed: tokens computed again after preemption, over completion tokens.
        curve: (seconds, utilisation since the look before).
    """

    name: str
    watermark: float
    utilisation: float
    before_tail: float
    makespan_s: float
    tail_s: float
    preemptions: int
    recomputed: float
    curve: tuple[tuple[float, float], ...]


Way = Callable[["World"], Awaitable[None]]


class World:
    """Four engines and what watches them, in the loop that runs."""

    def __init__(self, seed: int, samples_per_prompt: int, watermark: float, patience: Patience) -> None:
        profile = replace(R1_DISTILL_32B_TP2_H100, watermark=watermark)
        self.lengths = Lengths(seed=seed)
        self.full_rate = SERVERS * profile.full_rate(self.lengths.mean)
        self.urls = [f"http://replica-{index}" for index in range(SERVERS)]
        servers = [VirtualServer(url, profile) for url in self.urls]
        self.servers = VirtualServers(servers, self.lengths, patience=patience, prompt_tokens=PROMPT_TOKENS)
        self.watched = Watched(self.servers)
        self.job = SimulatedJob("first", SAMPLES // samples_per_prompt, samples_per_prompt)
        self.seed = seed
        self._looks: list[tuple[float, int]] = [(0.0, 0)]

    def made(self) -> int:
        """Completion tokens made so far."""
        now = asyncio.get_running_loop().time()
        total = 0
        for server in self.servers.servers.values():
            server.readings()
            total += server.engine.generation_tokens
        self._looks.append((now, total))
        return total

    async def watch(self) -> None:
        """Look every few seconds until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.made()

    def run(self, name: str, watermark: float) -> Run:
        """What came of it."""
        seen = list(self.watched.seen.values())
        ended, last_sent = max(one.last_ended_at for one in seen), max(one.last_sent_at for one in seen)
        tokens = sum(one.tokens for one in seen)
        engines = [server.engine for server in self.servers.servers.values()]
        return Run(
            name=name,
            watermark=watermark,
            utilisation=tokens / ended / self.full_rate,
            before_tail=self._made_by(last_sent) / max(last_sent, 1e-9) / self.full_rate,
            makespan_s=ended,
            tail_s=ended - last_sent,
            preemptions=sum(engine.preemptions for engine in engines),
            recomputed=sum(engine.recomputed_tokens for engine in engines) / tokens,
            curve=tuple(self._curve()),
        )

    def _made_by(self, at: float) -> float:
        before, after = self._looks[0], self._looks[-1]
        for look in self._looks:
            if look[0] > at:
                after = look
                break
            before = look
        if after[0] <= before[0]:
            return before[1]
        return before[1] + (after[1] - before[1]) * (at - before[0]) / (after[0] - before[0])

    def _curve(self) -> list[tuple[float, float]]:
        pairs = zip(self._looks, self._looks[1:], strict=False)
        return [(b[0], (b[1] - a[1]) / (b[0] - a[0]) / self.full_rate) for a, b in pairs if b[0] > a[0]]


def measure(name: str, way: Way, seed: int, samples_per_prompt: int, watermark: float) -> Run:
    """One run, from one seed."""

    async def main() -> Run:
        # The post's loops retry nothing, and wait for ever for a sequence that was preempted.
        patience = Patience() if "none" in name else Patience(stall_s=math.inf, first_token_s=math.inf)
        world = World(seed, samples_per_prompt, watermark, patience)
        watching = asyncio.create_task(world.watch())
        await way(world)
        watching.cancel()
        world.made()
        return world.run(name, watermark)

    return run_in_virtual_time(main())


def _sender(world: World) -> Sender:
    return Sender(world.watched, world.urls, "simulated", SamplingSettings(max_tokens=world.job.max_tokens))


async def gather_500(world: World) -> None:
    """The post's first loop."""
    await fleet_loops.gather(_sender(world), world.job.all_samples())


async def streaming_500(world: World) -> None:
    """The post's second loop."""
    await fleet_loops.stream(_sender(world), world.job.all_samples())


async def ours(world: World, order: OrderSettings | None = None, pool: PoolSettings | None = None) -> None:
    """Our pool, order, fleet and limit."""
    await _ours(world, [world.job], order, pool)


async def ours_with_second(world: World) -> None:
    """Ours, with a second job of the same size behind the first."""
    await _ours(world, [world.job, replace(world.job, name=OF_SECOND_JOB)], None, None)


async def _ours(world: World, jobs: list[SimulatedJob], order: OrderSettings | None, pool: PoolSettings | None) -> None:
    pool = pool or PoolSettings()
    endpoints = EndpointSettings(urls=tuple(world.urls))
    random.seed(world.seed)  # tenacity's waits
    async with Fleet(endpoints, pool, world.watched, print) as fleet:
        folders = [CheckedFolder() for _ in jobs]
        await asyncio.gather(
            *(
                run_job(job, fleet, folder, ChanceVerifier(0.5), order=order, pool=pool)
                for job, folder in zip(jobs, folders, strict=True)
            )
        )
    for job, folder in zip(jobs, folders, strict=True):
        if len(folder.rows) != job.prompts * job.samples or folder.errors:
            raise AssertionError(f"{job.name}: {len(folder.rows)} rows, {len(folder.errors)} errors")


async def longest_known_first(world: World) -> None:
    """The bound: every length known, longest first, each to the server with the fewest tokens left."""
    samples = sorted(world.job.all_samples(), key=partial(_length, world), reverse=True)
    await fleet_loops.stream(_sender(world), samples)


def _length(world: World, sample: Sample) -> int:
    return world.lengths.tokens(sample.prompt.prompt_id, sample.sample_id)


def main(argv: list[str] | None = None) -> int:
    """Print the tables, and draw the plot where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="draw utilisation over time to this file")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    options = parser.parse_args(argv)
    runs: dict[str, list[Run]] = {}
    for samples in (1, 8):
        runs[f"n={samples}"] = _table(options.seed, samples)
    if options.plot is not None:
        plot(options.plot, {title: [(run.name, run.curve) for run in some] for title, some in runs.items()})
        print(f"plot: {options.plot}")
    if options.json is not None:
        options.json.write_text(json.dumps({title: [asdict(run) for run in some] for title, some in runs.items()}))
    return 0


def _table(seed: int, samples: int) -> list[Run]:
    ways: list[tuple[str, Way, float]] = [
        ("gather-500", gather_500, 0.0),
        ("streaming-500", streaming_500, 0.0),
        (f"streaming-500, watermark {WATERMARK}", streaming_500, WATERMARK),
        ("ours", ours, WATERMARK),
        ("ours, second job queued", ours_with_second, WATERMARK),
        ("lengths known, longest first", longest_known_first, WATERMARK),
    ]
    print(f"\n{SAMPLES // samples} prompts x {samples}, {SERVERS} replicas, seed {seed}")
    print(f"{'':34}{'util':>7}{'before tail':>13}{'makespan s':>12}{'tail s':>8}{'preempted':>11}{'recomputed':>12}")
    runs = []
    for name, way, watermark in ways:
        run = measure(name, way, seed, samples, watermark)
        runs.append(run)
        print(
            f"{name:34}{run.utilisation:7.1%}{run.before_tail:13.1%}{run.makespan_s:12.0f}{run.tail_s:8.0f}"
            f"{run.preemptions:11}{run.recomputed:12.1%}",
            flush=True,
        )
    return runs


if __name__ == "__main__":
    sys.exit(main())
