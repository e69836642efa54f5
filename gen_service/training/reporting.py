"""Callbacks of transformers' Trainer that keep a run's record and its checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gen_service.storage.checkpoints import keep_newest, mark_whole
from gen_service.training.run_record import RunRecord

_SHOWN = (
    ("loss", "loss", ".4f"),
    ("eval_loss", "held-out loss", ".4f"),
    ("train_loss", "mean loss", ".4f"),
    ("reward", "reward", ".3f"),
    ("mean_token_accuracy", "token accuracy", ".3f"),
    ("completions/mean_length", "response tokens", ",.0f"),
    ("learning_rate", "learning rate", ".1e"),
    ("tokens_per_second", "tokens/s", ",.0f"),
)


class Reporting(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Writes what a Trainer logs into the run's metrics.jsonl, and the device time that passed into its cost.

    To what the Trainer logs are added `tokens`, all tokens learned from since the run began (TRL's `num_tokens` begins
    anew with each start), `tokens_per_second` since the line before without the time of evaluations, and `samples`,
    the rows seen since the run began.

    Args:
        record: of this run, already rewound to the checkpoint that it goes on from.
        samples_per_epoch: examples of the training set, for `samples`; None leaves it out.
        say: told a line for people with each line of the metrics.
    """

    def __init__(
        self, record: RunRecord, samples_per_epoch: int | None = None, say: Callable[[str], None] | None = None
    ) -> None:
        self._record = record
        self._say = say
        self._samples_per_epoch = samples_per_epoch
        self._tokens_before = int(record.latest("tokens") or 0)
        self._counted = 0
        self._evaluating = 0.0  # seconds since the line before that learned nothing
        self._line_at = self._billed_at = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The clock of the cost starts."""
        # A checkpoint brings its own with it: where the spec has other steps now, those hold.
        state.compute_steps(args, state.max_steps)
        self._line_at = self._billed_at = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """One line of metrics.jsonl."""
        numbers = {name: value for name, value in (logs or {}).items() if isinstance(value, int | float | str)}
        line = numbers | self._throughput(state, numbers)
        self._record.log(state.global_step, line)
        if self._say is not None:
            self._say(progress_line(state.global_step, state.max_steps, line))
        self._bill(args)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The rest of the cost."""
        self._bill(args)

    def _throughput(self, state: TrainerState, numbers: dict[str, Any]) -> dict[str, float | int]:
        added: dict[str, float | int] = {}
        if "num_tokens" in numbers:
            now, counted = time.monotonic(), int(numbers["num_tokens"])
            added["tokens"] = self._tokens_before + counted
            seconds = max(now - self._line_at - self._evaluating, 1e-9)
            added["tokens_per_second"] = round((counted - self._counted) / seconds, 1)
            self._line_at, self._counted, self._evaluating = now, counted, 0.0
        self._evaluating += numbers.get("eval_runtime", 0.0)
        if self._samples_per_epoch is not None and state.epoch is not None:
            added["samples"] = round(state.epoch * self._samples_per_epoch)
        return added

    def _bill(self, args: TrainingArguments) -> None:
        now = time.monotonic()
        self._record.spent((now - self._billed_at) * args.world_size)
        self._billed_at = now


def progress_line(step: int, steps: int, metrics: Mapping[str, Any]) -> str:
    """A line for people: `step 20/600  loss 1.3312  learning rate 2.9e-03  8,120 tokens/s`."""
    words = [f"step {step:,}/{steps:,}"]
    for name, label, form in _SHOWN:
        if isinstance(metrics.get(name), int | float):
            words.append(f"{label} {metrics[name]:{form}}".strip())
    return "  ".join(words)


class WholeCheckpoints(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Marks each checkpoint as whole when every process has written its part, then removes the oldest ones.

    The Trainer itself must keep all (`save_total_limit=None`): it would remove the last whole checkpoint before the new
    one counts.

    Args:
        keep: how many of the newest stay.
        protected: steps whose checkpoints stay besides, such as the last of a stage.
    """

    def __init__(self, folder: Path, keep: int, protected: frozenset[int] = frozenset()) -> None:
        self._folder = folder
        self._keep = keep
        self._protected = protected

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called in every process, after its part of the checkpoint was written."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            mark_whole(self._folder / f"checkpoint-{state.global_step}")
            keep_newest(self._folder, self._keep, self._protected)


class TrainingIsOver(Exception):
    """Raised where a step would begin after the last one."""


class NoStepTooMany(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Ends a training that goes on from its last step.

    The Trainer asks whether it is done after a step only, so that a run killed between its last checkpoint and its
    result would make one step more. The model is loaded when this raises `TrainingIsOver`.
    """

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called before each step."""
        if state.global_step >= state.max_steps:
            raise TrainingIsOver
