"""Where a GRPO trainer's responses come from: rows of rollouts, sampled by TRL itself or by a source of ours."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list, gather_object

from gen_service.endpoints.thoughts import OPEN, split_thinking
from gen_service.errors import TrainingError
from gen_service.records import Prompt
from gen_service.training.rollout import Rollout
from gen_service.training.rollout_stream import RolloutStream
from gen_service.training.scoring import Row
from gen_service.training.whole_weights import save_whole_weights

_T = TypeVar("_T")

# Folders of published weights that stay: a server may still be reading the one before the newest.
_KEPT_WEIGHTS = 2
_ADAPTER = "adapter"


class Texts:
    """Completions as a server tells them: the thought, the answer, and why the text ended."""

    def __init__(self, tokenizer: Any, end_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._end_ids = frozenset(end_ids)
        # Where the tags are special tokens they would be taken out of the text with the others.
        self._skips = OPEN not in tokenizer.all_special_tokens

    def row(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Row:
        """`finish_reason`, `reasoning` and `content` of sampled ids."""
        ended = bool(completion_ids) and completion_ids[-1] in self._end_ids
        ids = completion_ids[:-1] if ended else completion_ids
        text = self._tokenizer.decode(ids, skip_special_tokens=self._skips)
        if self._tokenizer.decode(prompt_ids[-8:]).rstrip().endswith(OPEN):
            text = f"{OPEN}\n{text}"
        reasoning, content = split_thinking(text)
        return {"finish_reason": "stop" if ended else "length", "reasoning": reasoning, "content": content}


class SourceSampling:
    """Makes TRL's trainer learn from a RolloutSource: its `rollout_func`, and its `vllm_generation` for new weights.

    With several training processes the first one asks the source for all of them and tells the others, as the servers
    are no process's own.

    Args:
        stream: batches in the order of the training set.
        weights: a folder that the servers see, too; each version gets one of its own in it.
        failed_ids: what stands for a response that no server could make; it is left out of the loss.
        merge: saves a LoRA's adapter (its folder) as whole weights (their folder), which servers can load; None where
            the trainer's weights are whole.
    """

    def __init__(
        self,
        stream: RolloutStream,
        weights: Path,
        failed_ids: Sequence[int],
        merge: Callable[[Path, Path], None] | None = None,
    ) -> None:
        self._stream = stream
        self._weights = weights
        self._failed_ids = list(failed_ids)
        self._merge = merge
        self._trainer: Any = None
        self._number = -1
        self._others: Sequence[Prompt] | None = None

    def attach(self, trainer: Any) -> None:
        """From now on the trainer samples here."""
        self._trainer = trainer
        trainer.rollout_func = self
        trainer.vllm_generation = self
        trainer.use_vllm = True  # TRL corrects for the sampling's log-probabilities only then
        trainer._last_loaded_step = -1

    def next_batch(self) -> None:
        """What is sampled next is the training set's next batch."""
        self._number += 1
        self._others = None

    def other_prompts(self, prompts: Sequence[Prompt]) -> None:
        """What is sampled next are these, each process's own."""
        self._others = prompts

    def measures(self) -> dict[str, float]:
        """The source's own figures; the first process asks for all."""
        return self._on_first(self._stream.measures)

    def sync_weights(self) -> None:
        """Called by TRL where a step was made since the last sampling: the trainer's weights go to every server."""
        version = self._trainer.state.global_step
        folder = self._weights / str(version)
        trained = folder if self._merge is None else self._weights / _ADAPTER
        save_whole_weights(self._trainer, trained)
        self._on_first(lambda: self._publish(trained, folder, version))

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """As TRL calls a rollout function: one response for each prompt, of which there are `generations` in a row."""
        mine = [one for group in self._groups() for one in group]
        ids = [one.completion_ids or self._failed_ids for one in mine]
        return {
            "prompt_ids": [one.prompt_ids for one in mine],
            "completion_ids": ids,
            "logprobs": [
                [None] * len(sampled) if one.logprobs is None or not one.completion_ids else one.logprobs
                for one, sampled in zip(mine, ids, strict=True)
            ],
            **{name: [getattr(one, name) for one in mine] for name in _FIELDS},
        }

    def _groups(self) -> list[list[Rollout]]:
        """This process's share of what the source samples."""
        accelerator = self._trainer.accelerator
        if self._others is None:
            groups = self._on_first(lambda: self._stream.take(self._number))
        else:
            wanted = gather_object(list(self._others))
            groups = self._on_first(lambda: self._stream.sample(wanted))
        share = len(groups) // accelerator.num_processes
        return groups[accelerator.process_index * share :][:share]

    def _on_first(self, work: Callable[[], _T]) -> _T:
        """The result of the first process's work, in every process."""
        accelerator = self._trainer.accelerator
        if accelerator.num_processes == 1:
            return work()
        told: list[Any] = [None, None]  # the result, or why there is none: the others are not left waiting
        if accelerator.is_main_process:
            try:
                told[0] = work()
            except Exception as error:
                broadcast_object_list([None, f"the first process cannot go on: {error}"])
                raise
        broadcast_object_list(told)
        if told[1] is not None:
            raise TrainingError(told[1])
        result: _T = told[0]
        return result

    def _publish(self, trained: Path, folder: Path, version: int) -> None:
        if self._merge is not None:
            self._merge(trained, folder)
            shutil.rmtree(trained)
        self._stream.publish(max(self._number, 0), folder, version)
        self._remove_old_weights()

    def _remove_old_weights(self) -> None:
        versions = sorted(int(path.name) for path in self._weights.iterdir() if path.name.isdigit())
        for version in versions[:-_KEPT_WEIGHTS]:
            shutil.rmtree(self._weights / str(version))


_FIELDS = ("finish_reason", "reasoning", "content", "version", "endpoint")
