"""`evaluate` and `curves` as people type them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gen_service.cli import app
from gen_service.endpoints.simulated import Script, SimulatedServer, SimulationSettings
from gen_service.errors import SpecError
from gen_service.storage.checkpoints import mark_whole

SUMS = [(2, 3), (40, 2), (7, 7)]
NARROW = {"COLUMNS": "80"}


@pytest.fixture
def server() -> Iterator[str]:
    """A simulated server in a loop of its own, since the verb runs one itself; it takes weights."""
    import asyncio

    ready, url, loop = threading.Event(), [""], asyncio.new_event_loop()
    ended = asyncio.Event()

    async def serve() -> None:
        async with SimulatedServer(SimulationSettings(script=Script(p_right=1.0), dev_mode=True)) as simulated:
            url[0] = simulated.url
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    yield url[0]
    loop.call_soon_threadsafe(ended.set)
    thread.join()
    loop.close()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with AIME's file and problems of one's own, and the working folder."""
    monkeypatch.chdir(tmp_path)
    rows = [{"problem": f"What is {a} + {b}?", "answer": f"{a + b:03d}"} for a, b in SUMS]
    (tmp_path / "test_aime.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    own = [{"question": f"What is {a} + {b}?", "gold": str(a + b + (a == 2))} for a, b in SUMS]
    (tmp_path / "own.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in own))
    return tmp_path


def test_an_evaluation_prints_and_stores_its_tables(server: str, data: Path) -> None:
    first = ["evaluate", "--server", server, "--name", "before", "--data", str(data), "--benchmark", "aime_2024"]
    first += ["--samples", "2", "--max-tokens", "400", "--output", "runs"]
    assert CliRunner().invoke(app, first, env=NARROW, catch_exceptions=False).exit_code == 0
    second = ["evaluate", "--server", server, "--name", "after", "--benchmark", "sums=own.jsonl", "--samples", "2"]
    second += [
        "--data",
        str(data),
        "--benchmark",
        "aime_2024",
        "--prompt-column",
        "question",
        "--answer-column",
        "gold",
    ]
    second += ["--max-tokens", "400", "--output", "runs", "--beside", "runs/before", "--training", "test_aime.jsonl"]
    second += ["--training-column", "problem", "--words", "3"]
    done = CliRunner().invoke(app, second, env=NARROW, catch_exceptions=False)
    assert done.exit_code == 0, done.stdout
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    ours, theirs = lines.index("measured here:"), lines.index("reported by DeepScaleR:")
    assert ours < lines.index("simulated (after) 100.0 - - - - -") < lines.index("simulated (before) 100.0 - - - - -")
    assert theirs < lines.index("o1-preview 40.0 81.4 - - - -") < lines.index("reported by Open-R1:")
    assert lines[lines.index("simulated (before) 100.0 - - - - -") + 1] == "100.0-100.0"
    assert lines[-lines[::-1].index("Qwen-7B") - 2] == "DeepSeek-R1-Distill- - 92.8 - - - -"
    assert "simulated (after) 66.7" in lines
    assert "AIME 2024 3 of 3 3 100.0 -" in lines
    assert any(line.startswith('AIME 2024: "what is ') and "test_aime.jsonl row" in line for line in lines)
    assert max(map(len, done.stdout[: done.stdout.index("Verdicts:")].splitlines())) <= 80
    tree = json.loads((data / "runs" / "after" / "evaluation.json").read_text())
    assert [result["score"]["pass_at"] for result in tree["benchmarks"]] == [
        {"1": pytest.approx(2 / 3), "2": pytest.approx(2 / 3)},
        {"1": 1.0, "2": 1.0},
    ]
    assert (data / "runs" / "after" / "evaluation.md").read_text().startswith("# Evaluation after\n")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--server", "http://a:1"], "name"),
        (["--name", "n"], "endpoints"),
        (["--name", "n", "--server", "http://a:1", "--benchmark", "aime"], "benchmark"),
        (["--name", "n", "--server", "http://a:1", "--policy", "loose"], "verification.policy"),
        (["--name", "n", "--server", "http://a:1", "--beside", "nowhere"], "evaluation"),
        (["--name", "n", "--server", "http://a:1", "--data", "nowhere"], "data"),
        (["missing.yaml"], "spec"),
    ],
)
def test_what_cannot_be_done_is_named_before_a_server_is_asked(data: Path, arguments: list[str], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        CliRunner().invoke(app, ["evaluate", *arguments], catch_exceptions=False)
    assert caught.value.field == field
    assert not (data / "evaluations").exists()


def test_the_checkpoints_of_a_run_are_measured_and_shown(server: str, data: Path) -> None:
    run = data / "runs" / "sft"
    for folder in ("checkpoints/checkpoint-7", "model"):
        (run / folder).mkdir(parents=True)
        (run / folder / "model.safetensors").write_text(folder)
    mark_whole(run / "checkpoints" / "checkpoint-7")
    (run / "run.json").write_text('{"finished": 1200}')
    (run / "metrics.jsonl").write_text('{"step": 7, "loss": 1.5}\n')
    command = ["evaluate-run", str(run), "--server", server, "--data", str(data), "--benchmark", "aime_2024"]
    command += ["--samples", "2", "--max-tokens", "400"]
    done = CliRunner().invoke(app, command, env=NARROW, catch_exceptions=False)
    assert done.exit_code == 0
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines.index("Step AIME 2024 Mean tokens") < lines.index("100.0-100.0")
    assert [line.split()[:2] for line in lines if line.split()[1:2] == ["100.0"]] == [
        ["7", "100.0"],
        ["1,200", "100.0"],
    ]
    shown = CliRunner().invoke(app, ["curves", str(run)], catch_exceptions=False).stdout.splitlines()
    assert [line for line in shown if line.startswith("eval/")] == ["eval/pass_at_1", "eval/mean_tokens"]


def test_a_run_without_a_checkpoint_is_named(server: str, data: Path) -> None:
    (data / "run.json").write_text('{"finished": null}')
    command = ["evaluate-run", str(data), "--server", server, "--data", str(data), "--benchmark", "aime_2024"]
    with pytest.raises(SpecError, match="a run with whole checkpoints"):
        CliRunner().invoke(app, command, catch_exceptions=False)


def test_curves_are_printed_and_drawn(tmp_path: Path) -> None:
    run = tmp_path / "grpo"
    run.mkdir()
    lines = [{"step": step, "reward": step / 20, "completions/mean_length": 100 + step} for step in range(1, 21)]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    png = tmp_path / "curves.png"
    done = CliRunner().invoke(app, ["curves", str(run), "--png", str(png), "--window", "5"], catch_exceptions=False)
    assert done.exit_code == 0
    printed = done.stdout.splitlines()
    assert [line for line in printed if line in ("reward", "completions/mean_length")] == [
        "reward",
        "completions/mean_length",
    ]
    assert sum("20 steps" in line for line in printed) == 2
    assert png.read_bytes().startswith(b"\x89PNG")
