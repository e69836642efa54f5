"""Trackers show a run as one, however often it is started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gen_service.training_settings import RunSettings

NAMES = ("WANDB_PROJECT", "WANDB_DIR", "WANDB_RUN_ID", "WANDB_RESUME")


def told(monkeypatch: pytest.MonkeyPatch, folder: Path, **given: str) -> dict[str, str | None]:
    """What W&B finds in its environment after a start of the run in `folder`."""
    trackers = pytest.importorskip("gen_service.training.trackers", exc_type=ImportError)
    with monkeypatch.context() as environment:
        for name in NAMES:
            environment.setenv(name, "")  # so that it is restored
            environment.delenv(name)
        for name, value in given.items():
            environment.setenv(name, value)
        run = RunSettings(name=folder.name, report_to=("wandb",))
        assert trackers.tracker_callbacks(run, folder, 0) == []
        return {name: os.environ.get(name) for name in NAMES}


def test_each_start_of_a_run_is_the_same_run_to_wandb_and_another_run_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, again, other = (told(monkeypatch, tmp_path / name) for name in ("one", "one", "two"))
    assert first == again
    assert first["WANDB_RUN_ID"] != other["WANDB_RUN_ID"]
    assert (first["WANDB_PROJECT"], first["WANDB_RESUME"]) == ("gen_service", "allow")
    assert first["WANDB_DIR"] == str(tmp_path / "one")


def test_what_the_environment_says_already_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {"WANDB_PROJECT": "ours", "WANDB_RUN_ID": "chosen"}
    found = told(monkeypatch, tmp_path / "one", **given)
    assert {name: found[name] for name in given} == given
