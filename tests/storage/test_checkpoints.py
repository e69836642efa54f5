"""Which checkpoints count, whatever a kill left."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_service.storage.checkpoints import (
    keep_newest,
    mark_whole,
    newest_whole,
    remove_half_written,
    step_of,
    whole_checkpoints,
)


def write_checkpoint(folder: Path, step: int, *, whole: bool = True) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "part").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "part" / "optimizer.pt").write_bytes(b"moments")
    if whole:
        mark_whole(path)
    return path


def test_a_half_written_checkpoint_does_not_count_and_is_removed(tmp_path: Path) -> None:
    whole, torn = write_checkpoint(tmp_path, 9), write_checkpoint(tmp_path, 10, whole=False)
    assert newest_whole(tmp_path) == whole
    assert remove_half_written(tmp_path) == ["checkpoint-10"]
    assert whole.is_dir()
    assert not torn.exists()


def test_the_newest_is_by_step_not_by_name(tmp_path: Path) -> None:
    for step in (100, 20, 3):
        write_checkpoint(tmp_path, step)
    assert [step_of(path) for path in whole_checkpoints(tmp_path)] == [3, 20, 100]


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-x").mkdir()
    assert newest_whole(tmp_path) is None
    assert newest_whole(tmp_path / "not there") is None


def test_what_was_being_removed_is_removed_and_protected_steps_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        write_checkpoint(tmp_path, step)
    keep_newest(tmp_path, 2, frozenset({1}))
    assert [step_of(path) for path in whole_checkpoints(tmp_path)] == [1, 4, 5]
    (tmp_path / "checkpoint-4").rename(tmp_path / ".going-checkpoint-4")  # killed in the middle of removing
    assert remove_half_written(tmp_path) == [".going-checkpoint-4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-5"]


@settings(max_examples=20)
@given(steps=st.sets(st.integers(1, 99), min_size=1, max_size=6), count=st.integers(1, 4))
def test_the_newest_always_stays(tmp_path_factory: pytest.TempPathFactory, steps: set[int], count: int) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    for step in steps:
        write_checkpoint(folder, step)
    keep_newest(folder, count)
    assert [step_of(path) for path in whole_checkpoints(folder)] == sorted(steps)[-count:]
