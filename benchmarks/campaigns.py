"""The kill and the fault campaign: promises counted, not timed. `python -m benchmarks.campaigns kill|fault`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from benchmarks.fault_campaign import FaultReport, run_fault_campaign
from benchmarks.figures import Figure, Target, counted
from benchmarks.kill_campaign import KillReport, run_kill_campaign
from benchmarks.workload import SEED

NAME = "campaigns"
NONE = Target(at_most=0)


def measure(kill_samples: int, kills: int, fault_samples: int) -> list[Figure]:
    """Both campaigns as figures."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        killed = run_kill_campaign(Path(name), kill_samples, kills)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        faulty = run_fault_campaign(Path(name), fault_samples)
    return [*_kill_figures(killed), *_fault_figures(faulty)]


def main(argv: Sequence[str] | None = None) -> None:
    """Run one campaign, print its counts; the exit code says whether every promise held."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=__doc__)
    parser.add_argument("campaign", choices=("kill", "fault"))
    parser.add_argument("--samples", type=int, help="5,000 for kill, 10,000 for fault")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=SEED, help="of the moments of the kills")
    options = parser.parse_args(argv)
    report: KillReport | FaultReport
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        if options.campaign == "kill":
            report = run_kill_campaign(Path(name), options.samples or 5_000, options.kills, options.seed)
        else:
            report = run_fault_campaign(Path(name), options.samples or 10_000)
    for one in fields(report):
        value = getattr(report, one.name)
        print(f"{one.name:>22}: {dict(value) if isinstance(value, dict) else value}")
    print(f"{'every promise held':>22}: {report.holds}")
    raise SystemExit(0 if report.holds else 1)


def _kill_figures(report: KillReport) -> list[Figure]:
    title = f"kill -9 x {report.kills}, {report.samples:,} samples"
    opened = sum(report.open_at_kill)
    again = counted(NAME, f"{title}: asked again", "requests", [report.asked_again], Target(at_most=opened))
    return [
        counted(NAME, f"{title}: rows lost", "rows", [report.lost], NONE),
        counted(NAME, f"{title}: rows doubled", "rows", [report.doubled], NONE),
        counted(NAME, f"{title}: durable samples asked again", "requests", [report.asked_though_durable], NONE),
        counted(NAME, f"{title}: texts no server sent", "rows", [report.wrong_text], NONE),
        again,
    ]


def _fault_figures(report: FaultReport) -> list[Figure]:
    title = f"faults in 10% of requests, {report.samples:,} samples"
    return [
        counted(NAME, f"{title}: rows lost", "rows", [report.lost], NONE),
        counted(NAME, f"{title}: rows doubled", "rows", [report.doubled], NONE),
        counted(NAME, f"{title}: texts no server has", "rows", [report.wrong_text], NONE),
        counted(NAME, f"{title}: wrong or silent errors", "rows", [report.wrong_errors], NONE),
        counted(NAME, f"{title}: continued elsewhere", "rows", [report.continued], Target(at_least=1)),
    ]


if __name__ == "__main__":
    main()
