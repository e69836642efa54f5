"""Which checkpoints are whole. No torch: transformers writes them, and this says when they count.

transformers writes a checkpoint file by file in place, so that a kill leaves a folder that looks like one. It counts
from the moment its marker is there: the last file, written when all others are on the disk.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from gen_service.storage.destination import LocalFolder
from gen_service.storage.disk_space import sync_file, sync_folder

MARKER = "whole.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_GOING = ".going-"


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint's folder, from its name."""
    match = _NAME.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint} is not the folder of a checkpoint")
    return int(match[1])


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder` that are whole, the newest last."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name) and (path / MARKER).is_file()]
    return sorted(found, key=step_of)


def newest_whole(folder: Path) -> Path | None:
    """The checkpoint to go on from; None where there is none."""
    whole = whole_checkpoints(folder)
    return whole[-1] if whole else None


def mark_whole(checkpoint: Path) -> None:
    """Sync all files of a checkpoint, then say that it is whole. Idempotent."""
    for folder, _, names in os.walk(checkpoint):
        for name in names:
            descriptor = os.open(Path(folder, name), os.O_RDONLY)
            try:
                sync_file(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(folder)
    LocalFolder(checkpoint).put(MARKER, b'{"version": 1}\n')


def remove_half_written(folder: Path) -> list[str]:
    """Remove what a killed process left half-written or half-removed; returns the names of what went."""
    left = [path for path in folder.glob("checkpoint-*") if not (path / MARKER).is_file()]
    left += folder.glob(f"{_GOING}*")
    for path in left:
        shutil.rmtree(path)
    return sorted(path.name for path in left)


def keep_newest(folder: Path, count: int, protected: frozenset[int] = frozenset()) -> None:
    """Remove all whole checkpoints but the newest `count` and those of the `protected` steps."""
    for path in whole_checkpoints(folder)[:-count]:
        if step_of(path) not in protected:
            going = path.rename(path.with_name(f"{_GOING}{path.name}"))  # at once no checkpoint any more
            shutil.rmtree(going)
