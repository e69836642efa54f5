"""A plan as people and programs see it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from gen_service.planning.plan import Plan
from gen_service.terminal.plan import duration, plan_document, plan_rows, print_plan

FLEETS = Path(__file__).resolve().parents[2] / "deploy" / "fleets"

PLAN = Plan(
    fleet="small",
    gpus=8,
    prompts=100,
    samples=790,
    correct=None,
    skipped={},
    simulated_samples=790,
    makespan_s=3_725.0,
    tail_s=65.0,
    utilisation=0.91,
    steady_utilisation=0.97,
    tokens_per_s=1_234.5,
    completion_tokens=4_598_512,
    prompt_tokens=12_345,
    recomputed=0.034,
    in_flight=310.4,
    gpu_hours=8.28,
    cost=None,
    currency=None,
    assumptions=("fleet: small, made up",),
)


def test_the_table_says_each_number_with_its_unit() -> None:
    assert dict(plan_rows(PLAN)) == {
        "samples": "790 of 100 prompts",
        "time": "1 h 02 min",
        "of it the tail": "1 min 05 s",
        "utilisation": "91%, 97% while samples wait (of the rate with all KV caches full)",
        "completion tokens": "4,598,512 (1,234 a second)",
        "prompt tokens": "12,345",
        "computed again": "3.4% of the completion tokens",
        "in flight, by the limit": "310",
        "GPU-hours": "8.3",
    }


def test_what_there_is_only_sometimes_has_its_line_then() -> None:
    rows = dict(
        plan_rows(
            replace(
                PLAN,
                simulated_samples=100,
                correct=95,
                skipped={"given_up": 4, "solved": 1_006},
                steady_utilisation=None,
                in_flight=None,
                cost=20.7,
                currency="EUR",
            )
        )
    )
    assert rows["samples"] == "790 of 100 prompts, 100 of them simulated"
    assert (rows["right answers"], rows["not needed"]) == ("95", "given_up 4, solved 1,006")
    assert rows["utilisation"] == "91% (of the rate with all KV caches full)"
    assert (rows["in flight, by the limit"], rows["cost"]) == ("all at once", "20.70 EUR")


def test_what_was_assumed_is_printed() -> None:
    console = Console(file=io.StringIO(), width=200)
    print_plan(console, PLAN)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert "plan on small, 8 GPUs" in printed
    assert "- fleet: small, made up" in printed


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599.0, "59 min 59 s"), (3600.0, "1 h 00 min")],
)
def test_durations_are_read_by_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from gen_service.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, "plan", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def spec(tmp_path: Path) -> str:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("".join(f'{{"prompt": "What is {number} + 1?"}}\n' for number in range(30)), encoding="utf-8")
    path = tmp_path / "job.yaml"
    path.write_text(f"prompts: {prompts}\nendpoints: http://127.0.0.1:1\nsamples: 2\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", sorted(path.name for path in FLEETS.glob("*.yaml")))
def test_the_verb_plans_on_each_shipped_fleet_and_asks_no_server(spec: str, name: str) -> None:
    done = command(spec, "--fleet", str(FLEETS / name), "--mean-tokens", "800", "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    plan = json.loads(done.stdout)
    assert (plan["version"], plan["fleet"], plan["gpus"]) == (1, name.removesuffix(".yaml"), 32)
    assert plan["samples"] == 60
    assert plan["makespan_s"] > 0
    assert any("not measured" in words for words in plan["assumptions"])


def test_the_verb_prints_the_table_and_writes_the_file(spec: str, tmp_path: Path) -> None:
    report = tmp_path / "plan.json"
    done = command(spec, "--fleet", str(FLEETS / "r1-distill-32b-16xtp2.yaml"), "--json", str(report))
    assert (done.returncode, done.stderr) == (0, "")
    assert "60 of 30 prompts" in done.stdout
    assert json.loads(report.read_text(encoding="utf-8"))["samples"] == 60


def test_a_document_holds_the_whole_plan() -> None:
    document = plan_document(PLAN)
    assert document["version"] == 1
    assert set(document) == {"version", *Plan.__dataclass_fields__}


def test_a_wrong_fleet_is_one_clear_line_and_exit_code_2(spec: str, tmp_path: Path) -> None:
    done = command(spec, "--fleet", str(tmp_path / "none.yaml"))
    assert done.returncode == 2
    assert done.stderr.startswith("gen-service: fleet: got ")
    assert len(done.stderr.splitlines()) == 1
