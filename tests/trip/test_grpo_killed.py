"""kill -9 in the middle of GRPO and between its stages: the same command continues, to the very same weights."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from gen_service.storage.checkpoints import whole_checkpoints
from gen_service.tiny_model import CHECKPOINT
from gen_service.tiny_model.problems import prompt_rows
from gen_service.training.metrics_file import read_metrics

pytest.importorskip("trl")

STEPS = 5
# What a step measured that a repeated one must measure again: all but times.
MEASURED = ("loss", "grad_norm", "reward", "completions/mean_length", "num_input_tokens_seen", "stage", "entropy")

# Rewards that differ within each group: the tiny model is sure of how an answer begins, unless it samples hot.
ALL_LEARN: dict[str, Any] = {
    "filtering": {"mode": "none"},
    "rewards": [{"name": "repetition", "options": {"size": 1}}],
    "sampling": {"temperature": 1.5},
}


def write_spec(folder: Path, name: str, **values: Any) -> Path:
    """Two stages, of two steps and of three, with resampling, which draws prompts of its own; values go over it."""
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(f"{json.dumps(row)}\n" for row in prompt_rows("train", 12, 3)))
    spec: dict[str, Any] = {
        "model": str(CHECKPOINT),
        "prompts": str(prompts),
        "run": {"name": name, "path": str(folder), "log_steps": 1, "checkpoint_steps": 1, "threads": 1},
        "generations": 4,
        "prompts_per_step": 2,
        "optimiser": {"batch": 4, "learning_rate": 1e-3, "schedule": "cosine", "warmup": 0.2},
        "stages": [{"max_tokens": 24, "steps": 2}, {"max_tokens": 48, "steps": 3, "generations": 8}],
        "filtering": {"mode": "resample", "most_tries": 1},
        "rewards": ["accuracy", "format", {"name": "repetition", "weight": 0.5}],
        "unanswered": {"truncated": "incorrect"},
        "verification": {"workers": 1},
    }
    spec |= values | {"run": spec["run"] | values.get("run", {})}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def start(spec: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from gen_service.cli import main; main()", "train", "grpo", str(spec)]
    with spec.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def finish(spec: Path) -> str:
    with start(spec) as process:
        process.wait(timeout=500)
    said = spec.with_suffix(".log").read_text()
    assert process.returncode == 0, said
    return said


def kill_when(spec: Path, happened: Callable[[], bool]) -> None:
    """kill -9 as soon as the files say so."""
    with start(spec) as process:
        try:
            while not happened():
                assert process.poll() is None, spec.with_suffix(".log").read_text()
                time.sleep(0.005)
        finally:
            process.kill()


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder / "metrics.jsonl") if "reward_std" in line]


def updates_of(folder: Path) -> list[dict[str, Any]]:
    """The line of each update; of a batch that makes several, the first says more."""
    return [line for line in read_metrics(folder / "metrics.jsonl") if "grad_norm" in line]


def responses_of(folder: Path, step: int) -> list[tuple[str, str]]:
    rows = pq.read_table(folder / "completions" / f"{step:08}.parquet", columns=["prompt_id", "content"]).to_pylist()
    return [(row["prompt_id"], row["content"]) for row in rows]


def test_a_run_killed_in_a_stage_and_between_stages_ends_in_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    whole = write_spec(tmp_path, "whole")
    finish(whole)
    killed, folder = write_spec(tmp_path, "killed"), tmp_path / "killed"

    def has(step: int) -> bool:
        return any(path.name == f"checkpoint-{step}" for path in whole_checkpoints(folder / "checkpoints"))

    kill_when(killed, lambda: has(2))  # the last of the first stage: the second has not begun
    kill_when(killed, lambda: len(lines_of(folder)) == 4)  # in or after the fourth step, perhaps while it is saved
    said = finish(killed)
    assert "going on from step" in said
    expected, found = lines_of(tmp_path / "whole"), lines_of(folder)
    assert [line["step"] for line in found] == list(range(1, STEPS + 1))
    assert [line["stage"] for line in found] == [0, 0, 1, 1, 1]
    for one, other in zip(expected, found, strict=True):
        assert [one.get(name) for name in MEASURED] == [other.get(name) for name in MEASURED]
    for step in range(1, STEPS + 1):
        assert responses_of(tmp_path / "whole", step) == responses_of(folder, step)
    weights = [(path / "model" / "model.safetensors").read_bytes() for path in (tmp_path / "whole", folder)]
    assert weights[0] == weights[1], "the run that was killed ended in other weights"
    record = json.loads((folder / "run.json").read_text())
    assert len(record["starts"]) == 3
    assert record["finished"] == STEPS


def test_a_run_killed_between_the_updates_of_one_batch_learns_from_that_batch_again(tmp_path: Path) -> None:
    """A batch of rollouts makes four updates: two parts of it, each learned from twice. Kills come in its middle."""
    values: dict[str, Any] = {
        "run": {"checkpoint_steps": 4},
        "steps_per_batch": 2,
        "loss": {"num_iterations": 2, "beta": 0.01},
        "stages": [{"max_tokens": 24, "steps": 4}, {"max_tokens": 40, "steps": 8}],
    } | ALL_LEARN
    whole = write_spec(tmp_path, "whole", **values)
    finish(whole)
    killed, folder = write_spec(tmp_path, "killed", **values), tmp_path / "killed"
    kill_when(killed, lambda: any(line["step"] == 5 for line in updates_of(folder)))
    kill_when(killed, lambda: any(line["step"] == 11 for line in updates_of(folder)))
    said = finish(killed)
    assert [f"going on from step {step}\n" in said for step in (4, 8)] == [True, True]
    expected, found = updates_of(tmp_path / "whole"), updates_of(folder)
    assert [line["step"] for line in found] == list(range(1, 13))
    assert all(line["grad_norm"] > 1e-3 for line in expected), "a step that learns nothing shows nothing"
    for one, other in zip(expected, found, strict=True):
        assert [one.get(name) for name in MEASURED] == [other.get(name) for name in MEASURED]
    weights = [(path / "model" / "model.safetensors").read_bytes() for path in (tmp_path / "whole", folder)]
    assert weights[0] == weights[1], "the run that was killed ended in other weights"


def test_a_lora_killed_in_its_second_stage_ends_in_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "model": {"path": str(CHECKPOINT), "lora": {"rank": 4, "alpha": 16, "dropout": 0.1}},
        "loss": {"beta": 0.01},
        "stages": [{"max_tokens": 24, "steps": 2}, {"max_tokens": 32, "steps": 2}],
        "save": "adapter",
    } | ALL_LEARN
    whole = write_spec(tmp_path, "whole", **values)
    finish(whole)
    killed, folder = write_spec(tmp_path, "killed", **values), tmp_path / "killed"
    kill_when(killed, lambda: any(line["step"] == 3 for line in updates_of(folder)))  # and perhaps while it is saved
    assert "going on from step" in finish(killed)
    expected, found = updates_of(tmp_path / "whole"), updates_of(folder)
    assert [(line["step"], line["stage"]) for line in found] == [(1, 0), (2, 0), (3, 1), (4, 1)]
    assert all(line["grad_norm"] > 1e-3 for line in expected), "a step that learns nothing shows nothing"
    for one, other in zip(expected, found, strict=True):
        assert [one.get(name) for name in (*MEASURED, "kl")] == [other.get(name) for name in (*MEASURED, "kl")]
    adapters = [path / "model" / "adapter_model.safetensors" for path in (tmp_path / "whole", folder)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes(), "the run that was killed ended in other weights"
