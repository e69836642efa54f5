"""One controller, many servers: 64 simulated ones, 8,000 requests in flight, 30 tokens/s each in chunks of 32.

The job runs by `generate` in a process of its own: real client, fleet, pool, journal, verification, shards. It says
what CPU it used and how late its event loop woke. How many requests each server answered, and how many tokens they
made, is told by the servers' own /metrics. The servers run in processes of their own on the same machine: their CPU
share is in the report, since what they take the controller cannot have.

Prints one JSON report. The exit code is 1 when the loop's lag reaches 100 ms at the 99th percentile of the whole run,
a server was starved, or a row is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil

from benchmarks.figures import Figure, Target, counted
from benchmarks.measurement import Steal
from benchmarks.servers import simulated_servers
from benchmarks.workload import SEED, sums_spec, write_sums
from gen_service.endpoints.readings import Readings, readings_of

NAME: Final = "many_servers"
SAMPLES_A_PROMPT: Final = 4
LAG_P99_S: Final = 0.1
# A server that answered less than this share of the mean was starved; lengths are random, so the counts spread.
LEAST_SHARE: Final = 0.75
# The same for what a server has in flight at any look while the fleet is full: its limit is fixed, so it is filled.
LEAST_IN_FLIGHT: Final = 0.75
LOOK_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run.

    Attributes:
        in_flight: over all servers, the same share at each.
        samples: in all.
        length: tokens of an answer, MEDIAN:P99[:CAP].
        first_token: seconds to the first token, the same form; it keeps the streams' chunks apart in time.
        rate: tokens per second of each stream.
    """

    servers: int = 64
    processes: int = 2
    in_flight: int = 8_000
    samples: int = 24_000
    length: str = "1500:5000:6000"
    first_token: str = "0.3:2.0:4.0"
    rate: float = 30.0
    stream_interval: int = 32


FULL: Final = Size()
SHORT: Final = Size(samples=10_000, length="900:1400:1500")


@dataclass(slots=True)
class Servers:
    """What the servers said, and the CPU seconds that processes took so far.

    Attributes:
        verification_cpu_s: by process id, of the controller's children.
    """

    urls: Sequence[str]
    processes: list[psutil.Process]
    looks: list[tuple[float, list[Readings]]] = field(default_factory=list)
    verification_cpu_s: dict[int, float] = field(default_factory=dict)

    def cpu_s(self) -> float:
        """User and system time of the servers' processes."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)

    async def look(self) -> list[Readings]:
        """Ask each server now."""
        async with aiohttp.ClientSession() as session:
            readings = [readings_of(await _metrics(session, url)) for url in self.urls]
        self.looks.append((asyncio.get_running_loop().time(), readings))
        return readings

    async def watch(self, controller: int) -> None:
        """Until cancelled. `controller`: its process id."""
        process = psutil.Process(controller)
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)
            for child in process.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    self.verification_cpu_s[child.pid] = sum(child.cpu_times()[:2])

    def most_tokens_per_s(self) -> float:
        """Tokens that all servers made per second, in the best stretch between two looks."""
        totals = [(at, tokens_of(readings)) for at, readings in self.looks]
        pairs = pairwise(totals)
        return max(((made - before) / (at - since) for (since, before), (at, made) in pairs), default=0.0)


def tokens_of(readings: Iterable[Readings]) -> float:
    """Tokens that all servers have made."""
    return sum(reading.generated_tokens or 0.0 for reading in readings)


def measure(size: Size) -> dict[str, Any]:
    """One run of that size: the report."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        arguments = ["--seed", str(SEED), "--length", size.length, "--first-token", size.first_token]
        arguments += ["--rate", str(size.rate), "--stream-interval", str(size.stream_interval)]
        each = -(-size.servers // size.processes)
        before = set(psutil.Process().children())
        with simulated_servers(arguments, processes=size.processes, servers=each) as urls:
            processes = [child for child in psutil.Process().children() if child not in before]
            return asyncio.run(_run(size, folder, Servers(urls[: size.servers], processes)))


async def _run(size: Size, folder: Path, servers: Servers) -> dict[str, Any]:
    prompts = write_sums(folder / "prompts.jsonl", -(-size.samples // SAMPLES_A_PROMPT))
    pool = {"in_flight": size.in_flight, "per_server": -(-size.in_flight // size.servers), "limit": "fixed"}
    spec = sums_spec(folder, prompts, servers.urls, samples=SAMPLES_A_PROMPT, pool=pool)
    given = {"spec": spec.model_dump(mode="json", exclude={"endpoints": {"api_key"}}), "slots": size.in_flight}
    before, steal = servers.cpu_s(), Steal()
    job = await _job(given, servers)
    cpu_share = (servers.cpu_s() - before) / job["wall_s"]
    machine = {"cores": os.cpu_count(), "stolen_by_the_host_share": steal.share()}
    return report(size, job, servers, await servers.look(), cpu_share) | {"machine": machine}


async def _job(given: dict[str, Any], servers: Servers) -> dict[str, Any]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.many_servers_job"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    watching = asyncio.create_task(servers.watch(child.pid))
    try:
        out, _ = await child.communicate(json.dumps(given).encode())
    finally:
        watching.cancel()
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        raise RuntimeError(f"benchmarks.many_servers_job ended with {child.returncode}")
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer


async def _metrics(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(f"{url}/metrics") as response:
        return await response.read()


def report(
    size: Size, job: dict[str, Any], servers: Servers, last: Sequence[Readings], cpu_share: float
) -> dict[str, Any]:
    """What is printed: the size, the controller's and the servers' accounts, and whether each target holds.

    Args:
        last: the servers' numbers at the end.
        cpu_share: cores that the servers' processes took.
    """
    answered = [reading.completed or 0.0 for reading in last]
    mean = sum(answered) / len(answered)
    full, slots = job["full"], size.in_flight / size.servers
    holds = {
        "lag_p99_below_100_ms": job["lag"]["p99_s"] < LAG_P99_S,
        "no_server_starved_of_requests": min(answered) >= LEAST_SHARE * mean,
        "no_server_starved_while_full": bool(full) and full["least_at_a_server"] >= LEAST_IN_FLIGHT * slots,
        "each_sample_is_one_right_row": job["by_verdict"] == {"correct": _samples(size)},
    }
    return {
        "benchmark": NAME,
        "size": asdict(size),
        "controller": {**job, "verification_cpu_share": sum(servers.verification_cpu_s.values()) / job["wall_s"]},
        "servers": {
            "cpu_share": cpu_share,
            "tokens_per_s": tokens_of(last) / job["wall_s"],
            "tokens_per_s_at_most": servers.most_tokens_per_s(),
            "requests": {"least": min(answered), "mean": mean, "most": max(answered)},
            "least_over_mean": min(answered) / mean,
        },
        "holds": holds,
    }


def _samples(size: Size) -> int:
    return -(-size.samples // SAMPLES_A_PROMPT) * SAMPLES_A_PROMPT


def figures(size: Size) -> list[Figure]:
    """One run of that size, as figures."""
    found = measure(size)
    job, servers = found["controller"], found["servers"]
    title = f"{size.servers} servers, {size.in_flight:,} in flight"
    wrong = sum(not holds for holds in found["holds"].values())
    return [
        counted(NAME, f"{title}: targets missed", "targets", [wrong], Target(at_most=0)),
        counted(NAME, "event loop lag, p50", "s", [job["lag"]["p50_s"]]),
        counted(NAME, "event loop lag, p99", "s", [job["lag"]["p99_s"]], Target(at_most=LAG_P99_S)),
        counted(NAME, "event loop lag, largest", "s", [job["lag"]["max_s"]]),
        counted(
            NAME, "CPU of the controller while all slots were in use", "cores", [job["full"].get("cpu_share", 0.0)]
        ),
        counted(NAME, "CPU of the servers, whole run", "cores", [servers["cpu_share"]]),
        counted(NAME, "tokens of all servers, at most", "1/s", [servers["tokens_per_s_at_most"]]),
        counted(NAME, "fewest requests at a server over the mean", "share", [servers["least_over_mean"]]),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print the report; the exit code is 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__)
    for name, value in asdict(Size()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    found = measure(Size(**vars(parser.parse_args(argv))))
    print(json.dumps(found, indent=2))
    raise SystemExit(not all(found["holds"].values()))


if __name__ == "__main__":
    main()
