"""CPU time of the controller for each request, against a bare loop that keeps nothing.

Zero latency, 200-byte answers, 256 in flight, one process, two simulated servers, streaming on. Ours is the whole path:
prompts from JSONL, one journal with fsync, verification of each answer, published Parquet.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.children import run_child, run_job
from benchmarks.figures import Figure, Target, compared, counted, show
from benchmarks.servers import simulated_servers
from benchmarks.workload import SEED, samples_of, sums_spec, write_requests, write_sums
from gen_service.jobs.job import JobSpec

NAME = "client_cost"
IN_FLIGHT = 256
WARM_UP = 256
# 32 is the stream interval recommended for vLLM with long traces.
SERVERS = ["--seed", str(SEED), "--length", "200", "--unit", "bytes", "--stream-interval", "32", "--tick", "1"]


def measure(requests: int, repeats: int, data: Path | None = None, profile: str | None = None) -> list[Figure]:
    """Both clients by turns on the same servers.

    Args:
        data: a folder or file of real problems with `problem` and `answer`, used instead of sums; verification is off
            then, since simulated answers to them mean nothing.
        profile: where to write a cProfile of the last repeat's loop thread; its figures are then too high.
    """
    ours: list[dict[str, Any]] = []
    bare: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name, simulated_servers(SERVERS, processes=2) as urls:
        folder = Path(name)
        spec = _spec(folder, urls, requests, data)
        asked = write_requests(folder / "requests.jsonl", list(samples_of(spec, folder)))
        for repeat in range(repeats):
            named = spec.model_copy(update={"name": f"job-{repeat}"})
            ours.append(run_job(named, warm_up=WARM_UP, profile=profile))
            bare.append(run_child("bare_loop", {**_asked(urls), "requests": str(asked)}))
            _check(ours[-1], bare[-1], requests)
    return _figures(ours, bare)


def main(argv: Sequence[str] | None = None) -> None:
    """Run alone, print the table."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--profile", help="write a cProfile here")
    options = parser.parse_args(argv)
    show(measure(options.requests, options.repeats, options.data, options.profile))


def _spec(folder: Path, urls: Sequence[str], requests: int, data: Path | None) -> JobSpec:
    sections: dict[str, Any] = {"pool": {"in_flight": IN_FLIGHT}}
    if data is None:
        return sums_spec(folder, write_sums(folder / "prompts.jsonl", requests), urls, **sections)
    real = {"limit": requests, "columns": {"prompt": "problem", "answer": "answer"}}
    return sums_spec(folder, data, urls, **sections, prompts=real, verification={"enabled": False})


def _asked(urls: Sequence[str]) -> dict[str, Any]:
    return {"urls": urls, "in_flight": IN_FLIGHT, "max_tokens": 16384, "model": "simulated", "warm_up": WARM_UP}


def _check(ours: dict[str, Any], bare: dict[str, Any], requests: int) -> None:
    if ours["rows"] != bare["rows"] or ours["rows"] > requests:
        raise RuntimeError(f"{ours['rows']} rows were published, {bare['rows']} requests were sent bare")
    if ours["by_verdict"].keys() - {"correct", "unverified"}:
        raise RuntimeError(f"the simulated answers are right, but the verdicts are {ours['by_verdict']}")


def _figures(ours: list[dict[str, Any]], bare: list[dict[str, Any]]) -> list[Figure]:
    def each(of: dict[str, Any], what: str) -> float:
        return float(of[what]) / int(of["rows"])

    pairs = list(zip(ours, bare, strict=True))
    cpu = [(1e3 * each(one, "cpu_s"), 1e3 * each(other, "cpu_s")) for one, other in pairs]
    rate = [(1 / each(one, "wall_s"), 1 / each(other, "wall_s")) for one, other in pairs]
    workers = [1e3 * each(one, "children_cpu_s") for one in ours]
    pauses = [1e3 * float(one["longest_pause_s"]) for one in ours]
    against = "bare aiohttp + uvloop loop"
    return [
        compared(NAME, "controller's CPU per request", "ms", cpu, against, Target(at_most=4)),
        compared(NAME, "throughput", "requests/s", rate, against),
        counted(NAME, "verification workers' CPU per request", "ms", workers),
        counted(NAME, "longest pause of the event loop", "ms", pauses, Target(at_most=100)),
    ]


if __name__ == "__main__":
    main()
