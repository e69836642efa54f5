"""SFT by real processes: killed and taken up, and by two of them together."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from gen_service.records import Trace
from gen_service.tiny_model import CHECKPOINT

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

STEPS = 18


def started(spec: Path, name: str) -> subprocess.Popen[str]:
    code = "from gen_service.cli import main; main()"
    command = [sys.executable, "-c", code, "train", "sft", str(spec), "--name", name]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def killed_at(spec: Path, name: str, step: int) -> list[str]:
    """Run until the line of `step` is said, then kill -9; the lines that came."""
    process = started(spec, name)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if line.startswith(f"step {step}/"):
            process.kill()
            break
    process.communicate()
    assert process.returncode == -9, lines
    return lines


def finished(spec: Path, name: str) -> list[str]:
    process = started(spec, name)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out.splitlines()


def measured(run: Path) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = ("step", "loss", "grad_norm", "learning_rate", "eval_loss", "tokens", "samples")
    return [tuple(line.get(name) for name in names) for line in lines if "loss" in line or "eval_loss" in line]


@pytest.fixture
def spec(solved: Callable[[int], list[Trace]], publish: Callable[[Path, Sequence[Trace]], str], tmp_path: Path) -> Path:
    document = {
        "model": {"path": str(CHECKPOINT)},
        "traces": {"paths": [publish(tmp_path / "job", solved(60))], "held_out": 0.1},
        "answer_break": "\n",
        "optimiser": {"learning_rate": 1e-3, "batch": 3, "accumulate": 2, "steps": STEPS},
        "run": {"path": str(tmp_path / "runs"), "name": "run", "log_steps": 1, "checkpoint_steps": 4, "threads": 1},
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def test_a_killed_run_ends_where_an_undisturbed_one_ends(
    spec: Path, solved: Callable[[int], list[Trace]], publish: Callable[[Path, Sequence[Trace]], str], tmp_path: Path
) -> None:
    """Meanwhile the job publishes more traces, of which the run that goes on learns nothing."""
    from safetensors.torch import load_file

    finished(spec, "whole")
    # The line of a step comes before its checkpoint: at 8 the kill comes while the second checkpoint is being written,
    # at 14 in the second epoch, two steps after one.
    killed_at(spec, "killed", 8)
    publish(tmp_path / "job", solved(90)[60:])
    second = killed_at(spec, "killed", 14)
    assert any(line in {"going on from step 4", "going on from step 8"} for line in second)
    assert any(line.endswith("; as tokenised before") for line in second)
    assert (
        f"{tmp_path / 'job'} has published 1 more file of traces since; this run learns from those it began with"
        in second
    )
    shutil.rmtree(tmp_path / "runs" / "killed" / "examples")  # so that they are made again, of a job that has grown
    publish(tmp_path / "job", solved(95)[90:])
    half_written = tmp_path / "runs" / "killed" / "checkpoints" / "checkpoint-15"
    half_written.mkdir()
    (half_written / "trainer_state.json").write_text("{")
    third = finished(spec, "killed")
    assert "going on from step 12" in third
    assert "removed checkpoint-15, which was half-written" in third
    whole, killed = tmp_path / "runs" / "whole", tmp_path / "runs" / "killed"
    assert measured(killed) == measured(whole)
    assert [line[0] for line in measured(killed) if line[1] is not None] == list(range(1, STEPS + 1))
    theirs = load_file(whole / "model" / "model.safetensors")
    ours = load_file(killed / "model" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    last = f"checkpoint-{STEPS}/model.safetensors"
    exact, again = load_file(whole / "checkpoints" / last), load_file(killed / "checkpoints" / last)
    assert all(torch.equal(tensor, exact[name]) for name, tensor in again.items())  # in float32, bit by bit
    record = json.loads((killed / "run.json").read_text())
    assert [start["step"] for start in record["starts"]] == [0, 8, 14]
    assert record["finished"] == STEPS
