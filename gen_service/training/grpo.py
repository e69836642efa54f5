"""GRPO on verified answers: a thin layer on TRL's GRPOTrainer. This is the front of it; `lengthening` runs the stages.

What TRL does is left to it: advantages, losses, generation, several devices. What is ours: rewards by a verifier
that can be killed, which groups are learned from, rollouts from servers, stages, and going on after a kill.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gen_service.training.grpo_prompts import check_golds, read_prompts
from gen_service.training.grpo_spec import GrpoSpec
from gen_service.training.judge import Judge
from gen_service.training.reward_trial import try_rewards
from gen_service.training.rewards import needs_verdict
from gen_service.training.rollout import AskedElsewhere, RolloutSource
from gen_service.training.run_record import RunRecord

Notice = Callable[[str], None]
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GrpoReport:
    """How a GRPO run ended.

    Attributes:
        model: the folder of the result.
        step: updates of the weights, over all stages and starts.
    """

    model: Path
    step: int


def train_grpo(
    spec: GrpoSpec,
    on_notice: Notice = _LOG.info,
    source: RolloutSource | None = None,
) -> GrpoReport:
    """Train through all stages, from the newest whole checkpoint where there is one.

    The same spec goes on with a run that was killed. In a process group (`accelerate launch`) each process calls this.
    Before anything else each reward function is tried on made-up responses, at each start (`reward_trial`).

    Args:
        on_notice: told in the main process what happens, a line each.
        source: where rollouts come from, over `spec.rollouts`; it stays open.

    Raises:
        SpecError: the spec asks for what cannot be done, its golds cannot be graded, or a reward function
            fails when it is tried; nothing was trained.
        TrainingError: the run cannot go on: no response has a reward, or servers have other weights than they were
            brought.
        JobLocked: another process trains this run.
        StorageError: the record or a checkpoint cannot be read.
    """
    prompts = read_prompts(spec.prompts)
    if any(needs_verdict(one.name) for one in spec.rewards):
        check_golds(spec.prompts.path, prompts.prompts, spec.verification)
    try_rewards(spec, prompts.prompts)
    # What is heavy is imported when all that can be told without it is right.
    import torch

    from gen_service.training.chat import ChatFormat
    from gen_service.training.lengthening import Run, run_stages
    from gen_service.training.models import load_tokenizer

    tokenizer = load_tokenizer(spec.model)
    chat = ChatFormat(tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(chat.end_of_turn)
    if spec.run.threads is not None:
        torch.set_num_threads(spec.run.threads)
    with ExitStack() as stack:
        record = stack.enter_context(_opened(spec, prompts.digest))
        say = on_notice if record.writes else _silent
        if record.finished is not None:
            say(f"nothing to do: {record.model} is of step {record.finished}, the last")
            return GrpoReport(record.model, record.finished)
        say(f"prompts: {len(prompts.prompts):,}, {prompts.refused:,} rows refused")
        run = Run(
            spec=spec,
            record=record,
            prompts=prompts.prompts,
            total_steps=total_steps(spec, len(prompts.prompts)),
            tokenizer=tokenizer,
            end_of_turn=chat.end_of_turn,
            judge=stack.enter_context(Judge(spec.verification)) if spec.verification.enabled else None,
            source=source if source is not None else _source(spec, stack, say, asks=record.writes),
            say=say,
        )
        step = run_stages(run)
        say(f"model: {record.model}, step {step}")
        return GrpoReport(record.model, step)


def total_steps(spec: GrpoSpec, prompts: int) -> int:
    """Updates of the weights in the whole run: `optimiser.steps`, else those of the stages, else by epochs.

    Rounded up to whole batches of rollouts.
    """
    steps = [stage.steps for stage in spec.stages]
    if spec.optimiser.steps is not None:
        total = spec.optimiser.steps
    elif steps and all(count is not None for count in steps):
        total = sum(count or 0 for count in steps)
    else:
        total = math.ceil(spec.optimiser.epochs * prompts * spec.loss.num_iterations / spec.prompts_per_step)
    return math.ceil(total / spec.steps_per_sampling) * spec.steps_per_sampling


def _opened(spec: GrpoSpec, digest: str) -> RunRecord:
    return RunRecord.open(
        spec.run,
        "grpo",
        spec.model_dump(mode="json"),
        {"prompts": {"hash": digest}},
        may_change=("rollouts.endpoints", "rollouts.pool", "rollouts.shared_folder", "verification.workers", "save"),
        reads=GrpoSpec.model_validate,
    )


def _source(spec: GrpoSpec, stack: ExitStack, say: Notice, *, asks: bool) -> RolloutSource | None:
    if spec.rollouts.source == "trl":
        return None
    if not asks:  # servers are no process's own: one knows of them, brings them weights and asks them
        return AskedElsewhere()
    from gen_service.training.fleet_rollouts import FleetRollouts

    source = FleetRollouts(spec.rollouts, temperature=spec.sampling.temperature, on_notice=say)
    stack.callback(source.close)
    return source


def _silent(words: str) -> None:
    """For the processes that are not the main one."""
