"""`make bench-fleet`: how busy four replicas are kept, by the two loops of the Open-R1 post and by ours.

Everything but the engines is real: pool, order, fleet, limit, shares. Utilisation is completion tokens per second over
what the engines make with the KV cache exactly full (67 sequences of the mean length each) and nothing preempted, over
the whole job with its tail. The tail is what is left when the last request has been sent. In virtual time by default;
with --http through real HTTP, against simulated servers in processes of their own, in scaled time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks import fleet_loops
from benchmarks.checked_folder import CheckedFolder
from benchmarks.fleet_http import http_run
from benchmarks.fleet_jobs import ChanceVerifier, SimulatedJob, run_job
from benchmarks.fleet_loops import Sender
from benchmarks.fleet_plot import plot
from benchmarks.fleet_world import Run, World, virtual_world
from gen_service.endpoints.fleet import Fleet
from gen_service.endpoints.simulated.virtual_servers import Patience
from gen_service.endpoints.simulated.virtual_time import run_in_virtual_time
from gen_service.records import Sample
from gen_service.settings import EndpointSettings, OrderSettings, PoolSettings, SamplingSettings

WATERMARK: Final = 0.1
# The loops of the post retry nothing: they wait for ever for a sequence that was preempted.
FOR_EVER: Final = Patience(stall_s=math.inf, first_token_s=math.inf)

Way = Callable[[World], Awaitable[None]]


def _sender(world: World) -> Sender:
    return Sender(world.watched, world.urls, "simulated", SamplingSettings(max_tokens=world.job.max_tokens))


async def gather_500(world: World) -> None:
    """The post's first loop."""
    await fleet_loops.gather(_sender(world), world.job.all_samples())


async def streaming_500(world: World) -> None:
    """The post's second loop."""
    await fleet_loops.stream(_sender(world), world.job.all_samples())


async def longest_known_first(world: World) -> None:
    """What knowing every length is worth to the second loop."""

    def length(sample: Sample) -> int:
        return world.lengths.tokens(sample.prompt.prompt_id, sample.sample_id)

    await fleet_loops.stream(_sender(world), sorted(world.job.all_samples(), key=length, reverse=True))


async def ours(world: World) -> None:
    """Our pool, order, fleet and limit, as they are by default."""
    await run_ours(world, [world.job])


async def ours_with_second(world: World) -> None:
    """The same with a second job of the same size on the same fleet."""
    await run_ours(world, [world.job, world.second])


async def run_ours(
    world: World,
    jobs: Sequence[SimulatedJob],
    *,
    order: OrderSettings | None = None,
    pool: PoolSettings | None = None,
) -> None:
    """Run jobs on one fleet, and check that nothing of them is missing.

    Raises:
        AssertionError: a sample has no row, or an error.
    """
    pool = pool or PoolSettings()
    endpoints = EndpointSettings(urls=tuple(world.urls))
    random.seed(world.seed)  # tenacity's waits
    folders = [CheckedFolder() for _ in jobs]
    async with Fleet(endpoints, pool, world.watched, _to_stderr) as fleet:
        await asyncio.gather(
            *(
                run_job(job, fleet, folder, ChanceVerifier(0.5), order=order, pool=pool)
                for job, folder in zip(jobs, folders, strict=True)
            )
        )
    for job, folder in zip(jobs, folders, strict=True):
        if len(folder.rows) != job.prompts * job.samples or folder.errors:
            raise AssertionError(f"{job.name}: {len(folder.rows)} rows, {len(folder.errors)} errors")


def _to_stderr(words: str) -> None:
    print(words, file=sys.stderr)


WAYS: Final[dict[str, tuple[Way, float, Patience]]] = {
    "gather-500": (gather_500, 0.0, FOR_EVER),
    "streaming-500": (streaming_500, 0.0, FOR_EVER),
    "streaming-500, watermark": (streaming_500, WATERMARK, FOR_EVER),
    "ours": (ours, WATERMARK, Patience()),
    "ours, second job queued": (ours_with_second, WATERMARK, Patience()),
    "lengths known, longest first": (longest_known_first, WATERMARK, FOR_EVER),
}
THE_THREE: Final = ("gather-500", "streaming-500", "ours")


def measure(
    name: str, way: Way, seed: int, samples_per_prompt: int, watermark: float, patience: Patience | None = None
) -> Run:
    """One run in virtual time, from one seed."""

    async def main() -> Run:
        world = virtual_world(samples_per_prompt, seed, watermark, patience or Patience())
        watching = asyncio.create_task(world.watch())
        await way(world)
        watching.cancel()
        return await world.run(name)

    return run_in_virtual_time(main())


def main(argv: list[str] | None = None) -> int:
    """Print the tables, and draw the plot where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--samples", type=int, action="append", help="of each prompt, 1 or 8; both by default")
    parser.add_argument("--plot", type=Path, help="draw utilisation over time to this file")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--http", action="store_true", help="the three through real HTTP too, and how far off they are")
    parser.add_argument("--time-scale", type=float, default=20.0, help="engine seconds in a second, with --http")
    options = parser.parse_args(argv)
    runs: dict[str, list[Run]] = {}
    for samples in options.samples or (1, 8):
        title = f"{4000 // samples} prompts x {samples}"
        print(f"\n{title}, 4 replicas, seed {options.seed}\n{_HEAD}")
        runs[title] = [
            _shown(measure(name, way, options.seed, samples, watermark, patience))
            for name, (way, watermark, patience) in WAYS.items()
        ]
        if options.http:
            runs[f"{title}, HTTP"] = _over_http(runs[title], options.seed, samples, options.time_scale)
    if options.plot is not None:
        drawn = {
            title: [(run.name, run.curve) for run in some if run.name in THE_THREE] for title, some in runs.items()
        }
        plot(options.plot, drawn)
    if options.json is not None:
        options.json.write_text(json.dumps({title: [asdict(run) for run in some] for title, some in runs.items()}))
    return 0


def _over_http(virtual: list[Run], seed: int, samples: int, time_scale: float) -> list[Run]:
    print(f"through HTTP, {time_scale:g} engine seconds in a second\n{_HEAD}")
    runs = []
    for name in THE_THREE:
        way, watermark, _ = WAYS[name]
        run = _shown(http_run(name, way, seed, samples, watermark, time_scale))
        same = next(one for one in virtual if one.name == name)
        off = run.utilisation / same.utilisation - 1, run.makespan_s / same.makespan_s - 1
        print(f"{'against virtual time':34}{off[0]:+7.1%}{'':13}{off[1]:+12.1%}")
        runs.append(run)
    return runs


_HEAD: Final = (
    f"{'':34}{'util':>7}{'before tail':>13}{'makespan s':>12}{'tail s':>8}{'preempted':>11}{'recomputed':>12}"
)


def _shown(run: Run) -> Run:
    recomputed = "-" if run.recomputed is None else f"{run.recomputed:.1%}"
    print(
        f"{run.name:34}{run.utilisation:7.1%}{run.before_tail:13.1%}{run.makespan_s:12.0f}{run.tail_s:8.0f}"
        f"{run.preemptions:11}{recomputed:>12}",
        flush=True,
    )
    return run


if __name__ == "__main__":
    sys.exit(main())
