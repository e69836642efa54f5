"""A plan for people, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gen_service.jobs.job import JobSpec
from gen_service.planning.fleet_profile import FleetProfile
from gen_service.planning.plan import Assumptions, Plan, make_plan

PLAN_VERSION = 1
STDOUT = "-"


def run_plan(console: Console, spec: JobSpec, profile: FleetProfile, assumed: Assumptions, report: str | None) -> None:
    """Make the plan and print it.

    Args:
        report: file for the plan as JSON; `-` prints the JSON alone.

    Raises:
        SpecError: as `make_plan`.
    """
    plan = make_plan(spec, profile, assumed)
    text = json.dumps(plan_document(plan), indent=2)
    if report == STDOUT:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    print_plan(console, plan)
    if report is not None:
        Path(report).write_text(f"{text}\n", encoding="utf-8")


def plan_document(plan: Plan) -> dict[str, Any]:
    """The plan as JSON has it, with a version."""
    return {"version": PLAN_VERSION, **asdict(plan)}


def print_plan(console: Console, plan: Plan) -> None:
    """Print the plan in numbers, then what was assumed."""
    table = Table(title=f"plan on {plan.fleet}, {plan.gpus} GPUs", show_header=False, title_justify="left")
    for name, value in plan_rows(plan):
        table.add_row(name, value)
    console.print(table)
    console.print(Text("assumed", style="bold"))
    for words in plan.assumptions:
        console.print(f"- {words}", markup=False, highlight=False)


def plan_rows(plan: Plan) -> Iterator[tuple[str, str]]:
    """(name, value) lines of the table."""
    part = "" if plan.simulated_samples == plan.samples else f", {plan.simulated_samples:,} of them simulated"
    yield "samples", f"{plan.samples:,} of {plan.prompts:,} prompts{part}"
    if plan.correct is not None:
        yield "right answers", f"{plan.correct:,}"
    if plan.skipped:
        yield "not needed", ", ".join(f"{reason} {count:,}" for reason, count in plan.skipped.items())
    yield "time", duration(plan.makespan_s)
    yield "of it the tail", duration(plan.tail_s)
    yield "utilisation", _utilisation(plan)
    yield "completion tokens", f"{plan.completion_tokens:,} ({plan.tokens_per_s:,.0f} a second)"
    yield "prompt tokens", f"{plan.prompt_tokens:,}"
    yield "computed again", f"{plan.recomputed:.1%} of the completion tokens"
    yield "in flight, by the limit", "all at once" if plan.in_flight is None else f"{plan.in_flight:,.0f}"
    yield "GPU-hours", f"{plan.gpu_hours:,.1f}"
    if plan.cost is not None:
        yield "cost", f"{plan.cost:,.2f} {plan.currency}"


def duration(seconds: float) -> str:
    """Seconds as people read them: `1 h 02 min`, `12 min 05 s`, `48 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600:,} h {whole % 3600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"


def _utilisation(plan: Plan) -> str:
    while_waiting = "" if plan.steady_utilisation is None else f", {plan.steady_utilisation:.0%} while samples wait"
    return f"{plan.utilisation:.0%}{while_waiting} (of the rate with all KV caches full)"
