"""The arguments of transformers' Trainer that SFT and GRPO have in common."""

from __future__ import annotations

from typing import Any

import torch
from transformers.trainer_utils import SchedulerType

from gen_service.errors import SpecError
from gen_service.training.models import has_bfloat16
from gen_service.training.trackers import PROJECT, trackers_of
from gen_service.training_settings import ModelSettings, OptimiserSettings, RunSettings


def trainer_arguments(model: ModelSettings, optimiser: OptimiserSettings, run: RunSettings) -> dict[str, Any]:
    """How the weights are moved, in which arithmetic and on what; what is logged and saved, and when.

    Raises:
        SpecError: there is no such schedule of the learning rate.
    """
    if optimiser.schedule not in {schedule.value for schedule in SchedulerType}:
        names = ", ".join(sorted(schedule.value for schedule in SchedulerType))
        raise SpecError("optimiser.schedule", optimiser.schedule, f"one of {names}")
    return {
        "learning_rate": optimiser.learning_rate,
        "lr_scheduler_type": optimiser.schedule,
        "lr_scheduler_kwargs": optimiser.schedule_options or None,
        "warmup_steps": optimiser.warmup,  # below 1 it is a share of the steps
        "weight_decay": optimiser.weight_decay,
        "adam_beta2": optimiser.adam_beta2,
        "max_grad_norm": optimiser.max_grad_norm,
        "per_device_train_batch_size": optimiser.batch,
        "gradient_checkpointing": optimiser.gradient_checkpointing,
        "seed": optimiser.seed,
        "bf16": has_bfloat16() and model.dtype != "float32",
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_steps": run.log_steps,
        "save_strategy": "steps",
        "save_steps": run.checkpoint_steps,
        "report_to": trackers_of(run),
        "run_name": run.name,
        "project": PROJECT,
        "disable_tqdm": True,
    }
