"""How much of what is possible a client reaches when answers take time: against a bare loop, and against the ideal.

500 in flight, answers streamed by two simulated servers. Fixed: 20 KB, every answer takes 1.0 s. Heavy tail: 2 KB,
lognormal, median 0.5 s, 99th percentile 3.4 s, cut at 4.1 s; the ideal is the list schedule on 500 machines in arrival
order of the very latencies that the servers draw. The heavy tail with 20 KB is shown beside it, without a target: there
the servers and the client together fill two cores at the start. Ours is the whole `generate()` call, from call to
published.
"""

from __future__ import annotations

import argparse
import heapq
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from benchmarks.children import run_child, run_job
from benchmarks.figures import Figure, Target, compared, show
from benchmarks.servers import simulated_servers
from benchmarks.workload import SEED, prompt_text, samples_of, sums_spec, write_requests, write_sums
from gen_service.endpoints.simulated import HEAVY_TAIL, Fixed, Script, TotalLatency
from gen_service.records import Sample
from gen_service.storage import traces

NAME = "latency_share"
IN_FLIGHT = 500
SHARE = Target(at_least=0.95)
# Large chunks and few writes: with 32 tokens a chunk the servers and the client together need more than two cores.
SERVERS = ["--seed", str(SEED), "--unit", "bytes", "--stream-interval", "128", "--tick", "0.3"]


@dataclass(frozen=True, slots=True)
class Tail:
    """A distribution of latencies: its name, the bytes of an answer, the servers' option, the timing behind it."""

    name: str
    bytes: int
    option: str
    timing: TotalLatency

    @property
    def script(self) -> Script:
        """What the servers do, as a pure function."""
        return Script(SEED, Fixed(self.bytes), "bytes", self.timing)


FIXED = Tail("fixed 1.0 s, 20 KB", 20_000, "1.0", TotalLatency(Fixed(1.0)))
HEAVY = Tail("heavy tail, 2 KB", 2_000, "0.5:3.4:4.1", HEAVY_TAIL)
HEAVY_AND_LONG = Tail("heavy tail, 20 KB", 20_000, "0.5:3.4:4.1", HEAVY_TAIL)


@dataclass(slots=True)
class Spans:
    """Seconds of one repeat: the ideal, the bare loops, ours whole, and ours from first request to last manifest."""

    ideal: float
    bare: float
    batches: float
    ours: float
    ours_inner: float


def measure(tail: Tail, requests: int, repeats: int, *, with_batches: bool) -> list[Figure]:
    """All clients by turns on the same servers."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        prompts = write_sums(folder / "prompts.jsonl", requests)
        options = [*SERVERS, "--length", str(tail.bytes), "--latency", tail.option]
        with simulated_servers(options, processes=2) as urls:
            spans = [
                _repeat(folder, prompts, urls, tail, f"job-{repeat}", with_batches and repeat == 0)
                for repeat in range(repeats)
            ]
    return _figures(tail, requests, spans)


def main(argv: Sequence[str] | None = None) -> None:
    """Run alone, print the table."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__)
    parser.add_argument("--requests", type=int, default=5_000, help="of the fixed latency")
    parser.add_argument("--heavy-requests", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(argv)
    fixed = measure(FIXED, options.requests, options.repeats, with_batches=False)
    heavy = measure(HEAVY, options.heavy_requests, options.repeats, with_batches=True)
    show([*fixed, *heavy, *measure(HEAVY_AND_LONG, options.heavy_requests, options.repeats, with_batches=False)])


def list_schedule(latencies: Iterable[float], machines: int) -> float:
    """Makespan when each job, in order, starts on the machine that is free first (Graham, 1966)."""
    free = [0.0] * machines
    for latency in latencies:
        heapq.heapreplace(free, free[0] + latency)
    return max(free)


def latency_of(script: Script, sample: Sample) -> float:
    """Seconds that an idle server takes for this sample."""
    return script.latency_s(prompt_text(sample), sample.sample_id)


def _repeat(folder: Path, prompts: Path, urls: Sequence[str], tail: Tail, job: str, with_batches: bool) -> Spans:
    spec = sums_spec(folder, prompts, urls, name=job, pool={"in_flight": IN_FLIGHT})
    samples = list(samples_of(spec, folder))
    asked = {
        "urls": urls,
        "requests": str(write_requests(folder / "requests.jsonl", samples)),
        "in_flight": IN_FLIGHT,
        "max_tokens": spec.sampling.max_tokens,
        "model": "simulated",
    }
    ours = run_job(spec)
    if ours["by_verdict"] != {"correct": len(samples)}:
        raise RuntimeError(f"{len(samples)} right answers were sent, but the verdicts are {ours['by_verdict']}")
    bare = run_child("bare_loop", asked)
    batches = run_child("bare_loop", {**asked, "batches": True}) if with_batches else {"wall_s": 0.0}
    ideal = list_schedule((latency_of(tail.script, sample) for sample in samples), IN_FLIGHT)
    return Spans(ideal, bare["wall_s"], batches["wall_s"], ours["wall_s"], _inner(ours))


def _inner(ours: dict[str, Any]) -> float:
    """Seconds from the first request to the last manifest."""
    first = min(pc.min(batch.column(0)).as_py() for batch in traces.read_batches(ours["folder"], ["started_at"]))
    last = max(path.stat().st_mtime for path in Path(ours["folder"], "manifest").glob("*.json"))
    return float(last - first.timestamp())


def _figures(tail: Tail, requests: int, spans: list[Spans]) -> list[Figure]:
    def figure(what: str, ours: str, baseline: str, against: str, target: Target | None = None) -> Figure:
        pairs = [(requests / getattr(one, ours), requests / getattr(one, baseline)) for one in spans]
        return compared(NAME, f"{tail.name}: {what}", "requests/s", pairs, against, target)

    figures = [
        figure("generate()", "ours", "bare", "bare streaming loop", SHARE if tail is FIXED else None),
        figure("generate()", "ours", "ideal", "ideal list schedule", SHARE if tail is HEAVY else None),
        figure("generate(), first request to last row", "ours_inner", "ideal", "ideal list schedule"),
        figure("bare streaming loop", "bare", "ideal", "ideal list schedule"),
    ]
    if spans[0].batches:
        pairs = [(requests / spans[0].batches, requests / spans[0].ideal)]
        what = f"{tail.name}: bare loop in batches of {IN_FLIGHT}"
        figures.append(compared(NAME, what, "requests/s", pairs, "ideal list schedule"))
    return figures


if __name__ == "__main__":
    main()
