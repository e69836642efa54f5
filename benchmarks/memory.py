"""Memory must not grow with the number of prompts: peak of a controller's process for few and for 20 times as many."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.children import run_job
from benchmarks.figures import Figure, Target, compared, counted, show
from benchmarks.servers import simulated_servers
from benchmarks.workload import SEED, sums_spec, write_sums

NAME = "memory"
IN_FLIGHT = 256
GROWTH = Target(at_most=60)
SERVERS = ["--seed", str(SEED), "--length", "16", "--no-reasoning", "--stream-interval", "32"]


def measure(few: int, many: int, repeats: int = 1) -> list[Figure]:
    """Both sizes, each in a fresh process, by turns."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, simulated_servers(SERVERS, processes=2) as urls:
        folder = Path(name)
        pairs = [
            (_peak_mb(folder, urls, many, repeat), _peak_mb(folder, urls, few, repeat)) for repeat in range(repeats)
        ]
    title = f"peak of {many:,} prompts"
    growth = [large - small for large, small in pairs]
    return [
        compared(NAME, title, "MB", pairs, f"{few:,} prompts"),
        counted(NAME, f"{title}, more than of {few:,}", "MB", growth, GROWTH),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Run alone, print the table."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__)
    parser.add_argument("--few", type=int, default=10_000)
    parser.add_argument("--many", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args(argv)
    show(measure(options.few, options.many, options.repeats))


def _peak_mb(folder: Path, urls: Sequence[str], count: int, repeat: int) -> float:
    prompts = write_sums(folder / f"prompts-{count}.jsonl", count)
    spec = sums_spec(folder, prompts, urls, name=f"job-{count}-{repeat}", pool={"in_flight": IN_FLIGHT})
    ours = run_job(spec)
    if ours["rows"] != count:
        raise RuntimeError(f"{ours['rows']} rows were published of {count}")
    return float(ours["peak_mb"])


if __name__ == "__main__":
    main()
