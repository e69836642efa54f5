"""TRL's GRPOTrainer with verified rewards, filtering of groups without variance, and sampling on servers of our own.

Of TRL's inner workings it uses those that tests/training/test_trl_internals.py names, and no others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from accelerate.utils import gather_object

from gen_service.errors import TrainingError
from gen_service.records import Prompt, Verdict
from gen_service.storage.destination import LocalFolder
from gen_service.training.grpo_measures import Sampled, completion_rows, measures, sampled
from gen_service.training.grpo_prompts import prompt_row
from gen_service.training.grpo_sampling import SourceSampling, Texts
from gen_service.training.grpo_spec import GrpoSpec
from gen_service.training.judge import Judge
from gen_service.training.prompt_order import others
from gen_service.training.rewards import RewardFunction
from gen_service.training.rollout import FAILED
from gen_service.training.scoring import Response, Row, Scored, calls, filled, response_row, score
from gen_service.training.stages import Progress, to_plain
from gen_service.training.trl_trainer import GRPOTrainer
from gen_service.training.whole_weights import save_whole_weights
from gen_service.verification.verify import Answered

PROGRESS = "progress.json"
"""Beside the weights of a checkpoint: how far the run was."""

# Losses that TRL divides by the number of responses; the others are divided by tokens that count, dapo's by those of
# the batch, bnpo's by those of the micro-batch.
_BY_RESPONSES = frozenset({"grpo", "sapo", "dr_grpo", "luspo"})


@dataclass(slots=True)
class Parts:
    """What our trainer has besides TRL's.

    Attributes:
        prompts: all of the run, by the training set's `index`.
        judge: None where no answer is verified.
        source: None for TRL's own generation.
        progress: where the run is; read when a checkpoint is saved and when other prompts are drawn.
        completions: takes the step and rows of what was sampled, once for each line of the log.
    """

    spec: GrpoSpec
    functions: Sequence[RewardFunction]
    prompts: Sequence[Prompt]
    judge: Judge | None
    source: SourceSampling | None
    progress: Callable[[], Progress]
    completions: Callable[[int, Sequence[Row]], None]


class GroupTrainer(GRPOTrainer):
    """A GRPOTrainer whose batch is sampled and scored before TRL sees it, so that groups can be left out or replaced.

    A response without a reward is left out of the loss and of what the loss is divided by, as is a group that filtering
    drops. For `bnpo` the divisor is that of each micro-batch. Where a whole batch is left out, no weight is moved.

    Attributes:
        sampled: the figures of the last batch.
    """

    def __init__(self, parts: Parts, **arguments: Any) -> None:
        self._parts = parts
        self._ready: Scored | None = None
        self._kept: list[bool] = []
        self._rng_from: str | None = None
        self._without_reward = 0
        self._learns = True
        self._rows: list[Row] = []
        self._weights = np.array([function.weight for function in parts.functions])
        self.sampled = Sampled(float("nan"), 0.0)
        super().__init__(reward_funcs=list(parts.functions), **arguments)
        self._texts = Texts(self.processing_class, self.eos_token_ids)
        if parts.source is not None:
            parts.source.attach(self)

    def _generate_and_score_completions(self, inputs: list[Row]) -> dict[str, Any]:
        if self._parts.source is not None:
            self._parts.source.next_batch()
        first = self._scored(inputs)
        self._measure(first)
        batch = self._filled(inputs, first) if self._parts.spec.filtering.mode == "resample" else first
        output = self._learned_from(batch)
        self._check_gap(output, batch)
        names = [function.__name__ for function in self._parts.functions]
        advantages = output["advantages"].tolist()
        step, stage = self.state.global_step, self._parts.progress().stage
        self._rows = completion_rows(batch, names, self._kept, advantages, step, stage)
        return output

    def _learned_from(self, batch: Scored) -> dict[str, Any]:
        """What TRL makes of a batch: padded tensors, advantages, log-probabilities."""
        self._kept = self._which_are_kept(batch)
        rows = torch.tensor([float(sum(self._kept)), float(len(self._kept))], device=self.accelerator.device)
        kept, total = self.accelerator.reduce(rows).tolist()
        self._learns = kept > 0
        self._measured({"rollouts/learned_from": kept / total})
        self._ready = batch
        try:
            output: dict[str, Any] = super()._generate_and_score_completions(batch.rows)
        finally:
            self._ready = None
        scale = total / kept if kept and self.loss_type in _BY_RESPONSES else 1.0
        output["row_scale"] = torch.tensor(scale, device=self.accelerator.device)
        return output

    def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
        """The batch that is ready, in the form that TRL's has; else TRL's own."""
        if self._ready is None:
            generated: tuple[Any, ...] = super()._generate(prompts)
            return generated
        rows = self._ready.rows
        ids, completions = [row["completion_ids"] for row in rows], [row["completion"] for row in rows]
        mask = [[int(is_kept)] * len(one) for is_kept, one in zip(self._kept, ids, strict=True)]
        logprobs = [row["logprobs"] for row in rows] if self.use_vllm else None
        return [row["prompt_ids"] for row in rows], ids, mask, completions, logprobs, {}, None, []

    def _calculate_rewards(self, *_: Any) -> torch.Tensor:
        """The rewards of the batch that is ready, from all processes, (responses, functions)."""
        assert self._ready is not None
        rewards = torch.tensor(self._ready.rewards, dtype=torch.float32, device=self.accelerator.device)
        gathered: torch.Tensor = self.accelerator.gather(rewards)
        return gathered

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if not self._learns and self.is_deepspeed_enabled:
            # It makes its step before gradients could be taken away. The schedule brings the rate back.
            for group in self.optimizer.param_groups:
                group["lr"] = 0.0
        loss: torch.Tensor = super()._compute_loss(model, inputs) * inputs["row_scale"]
        return loss

    def _filled(self, inputs: list[Row], first: Scored) -> Scored:
        """The batch with other groups for those without variance."""
        tries = 0

        def more(missing: int) -> Scored | None:
            nonlocal tries
            here = torch.tensor([missing], device=self.accelerator.device)
            wanted = int(self.accelerator.gather(here).max())
            if wanted <= 0 or tries == self._parts.spec.filtering.most_tries:
                return None
            tries += 1
            return self._others(inputs, wanted, tries)

        batch = filled(first, first.groups, more)
        self._measured({"groups/tries": float(tries)})
        return batch

    def _others(self, inputs: list[Row], wanted: int, attempt: int) -> Scored | None:
        """Groups of prompts that are not in the batch, as many as wanted or as there are."""
        taken = np.array(sorted({row["index"] for row in gather_object(inputs)}))
        world, seed = self.accelerator.num_processes, self._parts.spec.optimiser.seed
        place = self._parts.progress().position
        drawn = others(len(self._parts.prompts), taken, wanted * world, seed, place, attempt)
        share = len(drawn) // world
        if share == 0:
            return None
        mine = drawn[self.accelerator.process_index * share :][:share].tolist()
        if self._parts.source is not None:
            self._parts.source.other_prompts([self._parts.prompts[index] for index in mine])
        rows = [prompt_row(self._parts.prompts, index) for index in mine for _ in range(self.num_generations)]
        return self._scored(rows)

    def _scored(self, inputs: list[Row]) -> Scored:
        """Sample a response for each row, and reward it."""
        ids, sampled_ids, _, completions, logprobs, extra, *_ = super()._generate([row["prompt"] for row in inputs])
        responses = []
        for place in range(len(inputs)):
            told = {name: values[place] for name, values in extra.items()}
            if not told:
                told = self._texts.row(ids[place], sampled_ids[place])
                told |= {"version": self.state.global_step, "endpoint": ""}
            drawn = {"prompt_ids": ids[place], "completion_ids": sampled_ids[place], "completion": completions[place]}
            responses.append(Response(**drawn, **told, logprobs=None if logprobs is None else logprobs[place]))
        verdicts = self._verdicts(inputs, responses)
        rows = [response_row(*one) for one in zip(inputs, responses, verdicts, strict=True)]
        rewards = score(self._parts.functions, rows, calls(self.state, self._log_metric), self._is_left_out)
        by, names = self._parts.spec.filtering.by, [function.__name__ for function in self._parts.functions]
        return Scored(self.num_generations, rows, rewards, self._weights, None if by is None else names.index(by))

    def _verdicts(self, inputs: list[Row], responses: list[Response]) -> Sequence[Verdict | None]:
        """A verdict on each response; None where nothing is verified."""
        if self._parts.judge is None:
            return [None] * len(responses)
        pairs = zip(inputs, responses, strict=True)
        return self._parts.judge.verdicts(
            [Answered(row["answer"], one.reasoning, one.content, one.finish_reason) for row, one in pairs]
        )

    def _is_left_out(self, row: Row) -> bool:
        """Whether there is nothing to learn from: no server could make it, or its weights are older than was agreed."""
        spec = self._parts.spec
        oldest = self.state.global_step - spec.rollouts.staleness * spec.steps_per_sampling
        return bool(row["finish_reason"] == FAILED or row["version"] < oldest)

    def _which_are_kept(self, batch: Scored) -> list[bool]:
        """Which responses are learned from."""
        kept = ~np.isnan(batch.total)
        if self._parts.spec.filtering.mode != "none":
            kept &= np.repeat(batch.informative(), batch.size)
        return [bool(one) for one in kept]

    def _measure(self, first: Scored) -> None:
        """What was sampled, before anything is left out or replaced; ends a run that has no reward to learn from."""
        rows = gather_object(first.rows)
        totals = np.array(gather_object(first.total.tolist()))
        flat = gather_object((~first.informative()).tolist())
        self.sampled = sampled(rows, totals)
        self._measured(measures(rows, totals, self.state.global_step))
        self._measured({"groups/without_variance": sum(flat) / len(flat)})
        if self._parts.source is not None:
            self._measured(self._parts.source.measures())
        self._measured({"stage": self._parts.progress().stage, "max_tokens": self.max_completion_length})
        # TRL counts from the run's beginning, the record adds to what it had at this start.
        self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen - self._initial_num_input_tokens_seen]
        self._check_rewards(rows, totals)

    def _measured(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._metrics["train"][name].append(float(value))

    def _check_rewards(self, rows: list[Row], totals: Any) -> None:
        self._without_reward = self._without_reward + 1 if np.isnan(totals).all() else 0
        if self._without_reward < self._parts.spec.none_steps:
            return
        names = ", ".join(function.__name__ for function in self._parts.functions)
        verdicts = ", ".join(f"{count} {name}" for name, count in Counter(row["verdict"] for row in rows).most_common())
        raise TrainingError(
            f"no response had a reward in {self._without_reward} batches in a row, so nothing can be learned (rewards: "
            f"{names}; verdicts of the last batch: {verdicts}). `unanswered` says what truncated responses and those "
            "without an answer are worth"
        )

    def _check_gap(self, output: dict[str, Any], batch: Scored) -> None:
        """The distance between what servers and trainer give the sampled tokens; between equal weights it is small."""
        theirs, ours = output.get("sampling_per_token_logps"), output.get("old_per_token_logps")
        if theirs is None or ours is None:
            return
        counted = (output["completion_mask"] * output["tool_mask"]).bool() & ~torch.isnan(theirs)
        fresh = torch.tensor([row["version"] == self.state.global_step for row in batch.rows], device=ours.device)
        of_fresh = counted & fresh.unsqueeze(1)
        gaps = (ours - theirs).abs().double()
        sums = [gaps[counted].sum(), counted.sum(), gaps[of_fresh].sum(), of_fresh.sum()]
        total, count, fresh_total, fresh_count = self.accelerator.reduce(torch.stack(sums)).tolist()
        self._measured({"sampling/logprob_gap": total / max(count, 1)})
        gap, limit = fresh_total / max(fresh_count, 1), self._parts.spec.loss.logprob_gap
        if limit is not None and gap > limit:
            raise TrainingError(
                f"the servers' log-probabilities are {gap:.3g} nats from the trainer's on average (loss.logprob_gap: "
                f"{limit:g}): the servers have other weights, or sample with other settings"
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's, and the completions of the last batch."""
        super().log(logs, start_time)
        if self._rows:
            self._parts.completions(self.state.global_step, gather_object(self._rows))
            self._rows = []

    def _clip_grad_norm(self, model: Any) -> Any:
        """Without gradients the optimiser passes the weights over: its momentum would move them otherwise."""
        norm = super()._clip_grad_norm(model)
        if not self._learns and not self.is_deepspeed_enabled:
            model.zero_grad(set_to_none=True)
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        if self.is_fsdp_enabled:  # it wrote shards, and the next stage and the result begin with whole weights
            save_whole_weights(self, folder)
        if self.args.should_save:
            LocalFolder(folder).put(PROGRESS, orjson.dumps(to_plain(self._parts.progress())))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Put off until the first batch: making the loader draws a number, which an undisturbed run draws but once."""
        self._rng_from = checkpoint

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if self._rng_from is not None:
            super()._load_rng_state(self._rng_from)
            self._rng_from = None
        return super()._prepare_inputs(generation_batch)
