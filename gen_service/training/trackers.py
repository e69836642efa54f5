"""Who is told of a run's metrics besides its own metrics.jsonl."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from gen_service.training_settings import RunSettings

PROJECT: Final = "gen_service"


def trackers_of(run: RunSettings) -> list[str] | str:
    """`report_to` for transformers' arguments: all but TensorBoard, which `tracker_callbacks` serves."""
    return [tracker for tracker in run.report_to if tracker != "tensorboard"] or "none"


def tracker_callbacks(run: RunSettings, folder: Path, step: int) -> list[TrainerCallback]:
    """What the trackers need to show a run as one, however often it is started. One process calls this.

    TensorBoard's files are in `tensorboard/` of the run's folder. W&B is told in its own variables of the environment,
    where those are not set, to keep its files in that folder and to go on with the same run.

    Args:
        step: that the run goes on from; what TensorBoard was told of later steps is hidden, so that each stands once.
    """
    if "wandb" in run.report_to:
        identity = hashlib.blake2b(str(folder).encode(), digest_size=6).hexdigest()
        told = {"WANDB_PROJECT": PROJECT, "WANDB_DIR": str(folder), "WANDB_RUN_ID": identity, "WANDB_RESUME": "allow"}
        for name, value in told.items():
            os.environ.setdefault(name, value)
    if "tensorboard" not in run.report_to:
        return []
    from torch.utils.tensorboard import SummaryWriter

    return [TensorBoardCallback(SummaryWriter(folder / "tensorboard", purge_step=step + 1 if step else None))]
