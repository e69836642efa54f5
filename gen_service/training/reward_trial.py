"""Reward functions are tried on made-up responses before anything heavy happens: what is wrong with one shows at once.

Of a few of the run's prompts each function gets what training would give it, with responses of every kind: the gold in
a box after a thought, a wrong answer, one cut off at the limit, an empty one. A function of one's own is thus called
before training, at each start and for each stage once; what it does besides, it does then, too. The token ids are made
up, and the verdicts are those that the responses are made for: nothing is verified. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from gen_service.endpoints.thoughts import CLOSE, OPEN, split_thinking
from gen_service.errors import SpecError
from gen_service.records import Outcome, Prompt, Verdict
from gen_service.training.grpo_prompts import prompt_row
from gen_service.training.grpo_spec import GrpoSpec, generations_of, stages_of
from gen_service.training.rewards import build
from gen_service.training.scoring import Response, Row, calls, columns_of, response_row, values_of

_PROMPTS: Final = 4
_THOUGHT: Final = "Let us see what is asked, and take one step after another."
_WRONG: Final = "-31415926.5"
_ENDS: Final[dict[Outcome, str]] = {
    "correct": f"{OPEN}\n{_THOUGHT}\n{CLOSE}\nThe answer is \\boxed{{%s}}.",
    "incorrect": f"{OPEN}\n{_THOUGHT}\n{CLOSE}\nThe answer is \\boxed{{{_WRONG}}}.",
    "truncated": f"{OPEN}\n{_THOUGHT} Wait,",
    "no_answer": "",
}

TRAINER_STATE: Final[dict[str, Any]] = {
    "epoch": 0.0,
    "global_step": 0,
    "max_steps": 1,
    "logging_steps": 1,
    "eval_steps": 1,
    "save_steps": 1,
    "train_batch_size": 1,
    "num_train_epochs": 1,
    "num_input_tokens_seen": 0,
    "total_flos": 0.0,
    "log_history": [],
    "best_metric": None,
    "best_global_step": None,
    "best_model_checkpoint": None,
    "is_local_process_zero": True,
    "is_world_process_zero": True,
    "is_hyper_param_search": False,
    "trial_name": None,
    "trial_params": None,
    "stateful_callbacks": {},
}
"""What transformers' TrainerState holds before the first step; the class itself comes with torch."""


def try_rewards(spec: GrpoSpec, prompts: Sequence[Prompt]) -> None:
    """Call each reward function as each stage will, with responses made up for a few of the prompts.

    Raises:
        SpecError: one raises, or gives something else than a number or None for each response (names the function), or
            all of them give None for every response.
    """
    chosen = _chosen(prompts)
    for stage in stages_of(spec, 1):
        rows = made_up(prompts, chosen, generations_of(spec, stage), stage.max_tokens, spec.verification.enabled)
        arguments = columns_of(rows) | calls(SimpleNamespace(**TRAINER_STATE), lambda name, value: None)
        functions = build(spec.rewards, spec.unanswered, stage.max_tokens)
        values = [_tried(index, spec.rewards[index].name, one, arguments) for index, one in enumerate(functions)]
        if np.isnan(values).all():
            raise SpecError(
                "rewards",
                [one.name for one in spec.rewards],
                f"a reward for some response; tried on {len(rows)} made-up ones (right, wrong, cut off, empty), all "
                "functions gave None for each, so nothing could be learned",
            )


def made_up(
    prompts: Sequence[Prompt], chosen: Sequence[int], generations: int, max_tokens: int, is_verified: bool
) -> list[Row]:
    """Rows of responses with all columns that a batch in training has, `generations` in a row of each prompt.

    Args:
        chosen: which of the prompts; some come again where responses of all kinds would not fit otherwise.
        is_verified: responses have verdicts.
    """
    groups = max(len(chosen), -(-len(_ENDS) // generations))
    kinds = cycle(_ENDS)
    return [
        _row(prompts, index, kind, max_tokens, is_verified)
        for index in islice(cycle(chosen), groups)
        for kind in islice(kinds, generations)
    ]


def _chosen(prompts: Sequence[Prompt]) -> list[int]:
    """Places of some prompts with a gold, spread evenly, and of one without where there is such a one."""
    with_gold = [index for index, prompt in enumerate(prompts) if prompt.answer]
    without = next((index for index, prompt in enumerate(prompts) if not prompt.answer), None)
    spread = with_gold[:: max(1, len(with_gold) // _PROMPTS)][:_PROMPTS]
    return spread if without is None else [*spread, without]


def _row(prompts: Sequence[Prompt], index: int, kind: Outcome, max_tokens: int, is_verified: bool) -> Row:
    answer = prompts[index].answer
    text = _ENDS[kind] % (answer or "0") if kind == "correct" else _ENDS[kind]
    is_cut = kind == "truncated"
    ids = list(islice(_ids(), max_tokens if is_cut else min(max_tokens, 1 + 2 * len(text.split()))))
    reasoning, content = split_thinking(text)
    response = Response(
        prompt_ids=list(islice(_ids(), 8)),
        completion_ids=ids,
        completion=[{"role": "assistant", "content": text}],
        logprobs=None,
        finish_reason="length" if is_cut else "stop",
        reasoning=reasoning,
        content=content,
        version=0,
        endpoint="",
    )
    extracted = {"correct": answer, "incorrect": _WRONG}.get(kind)
    outcome = kind if answer or kind not in ("correct", "incorrect") else "ungradable"
    verdict = Verdict(outcome, "made up before training", extracted) if is_verified else None
    return response_row(prompt_row(prompts, index), response, verdict)


def _ids() -> Iterator[int]:
    """Token ids that every vocabulary has."""
    return cycle(range(100))


def _tried(index: int, name: str, function: Any, arguments: dict[str, Any]) -> list[float]:
    place, count = f"rewards.{index}.name", len(arguments["completions"])
    try:
        given = function(**arguments)
    except Exception as error:
        raise SpecError(
            place,
            name,
            f"a function that rewards responses; tried on {count} made-up ones, it raised "
            f"{type(error).__name__}: {error}",
        ) from error
    try:
        return values_of(given, count)
    except ValueError as error:
        raise SpecError(
            place, name, f"one number or None for each response; tried on {count} made-up ones, it {error}"
        ) from error
