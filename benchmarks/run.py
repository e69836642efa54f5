"""Every benchmark, one table, one file in bench-results/. `--short` is a few minutes, else about half an hour."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import (
    campaigns,
    client_cost,
    latency_share,
    many_servers,
    memory,
    service_load,
    verification,
    write_path,
)
from benchmarks.figures import RESULTS, Figure, save, show


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each benchmark is run."""

    requests: int
    fixed_requests: int
    heavy_requests: int
    few: int
    many: int
    rows: int
    kill_samples: int
    kills: int
    fault_samples: int
    repeats: int
    verification: verification.Size
    service: service_load.Size
    many_servers: many_servers.Size


SHORT = Size(
    2_000,
    5_000,
    2_000,
    2_000,
    20_000,
    2_000,
    1_500,
    8,
    2_000,
    3,
    verification.SHORT,
    service_load.SHORT,
    many_servers.SHORT,
)
FULL = Size(
    20_000,
    10_000,
    4_000,
    10_000,
    200_000,
    8_000,
    5_000,
    20,
    10_000,
    5,
    verification.FULL,
    service_load.FULL,
    many_servers.FULL,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run all; the exit code is 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument(
        "--data", type=Path, help="real problems (JSONL or a folder): prompts of client_cost, mix of verification"
    )
    options = parser.parse_args(argv)
    figures: list[Figure] = []
    for name, measure in _benchmarks(SHORT if options.short else FULL, options.data):
        print(f"{name} ...", file=sys.stderr, flush=True)
        figures += measure()
    show(figures)
    print(f"written to {save(figures, RESULTS, sys.argv[1:] if argv is None else argv)}")
    raise SystemExit(any(figure.holds is False for figure in figures))


def _benchmarks(size: Size, data: Path | None) -> list[tuple[str, Callable[[], list[Figure]]]]:
    fixed, heavy = latency_share.FIXED, latency_share.HEAVY
    return [
        ("client_cost", lambda: client_cost.measure(size.requests, size.repeats, data)),
        ("latency_share", lambda: latency_share.measure(fixed, size.fixed_requests, size.repeats, with_batches=False)),
        ("latency_share", lambda: latency_share.measure(heavy, size.heavy_requests, size.repeats, with_batches=True)),
        ("memory", lambda: memory.measure(size.few, size.many)),
        ("write_path", lambda: write_path.measure(size.rows, size.repeats)),
        ("verification", lambda: verification.measure(size.verification, data)),
        ("service_load", lambda: service_load.measure(size.service)),
        ("many_servers", lambda: many_servers.figures(size.many_servers)),
        ("campaigns", lambda: campaigns.measure(size.kill_samples, size.kills, size.fault_samples)),
    ]


if __name__ == "__main__":
    main()
