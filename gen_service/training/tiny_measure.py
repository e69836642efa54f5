"""How good a tiny model is: pass@1 by kind of problem, with answers compared as exact fractions, and its model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from gen_service.tiny_model.problems import KINDS, Problem, Split, boxed, problems, value_of

_LONGEST_ANSWER = 128  # tokens; the longest worked solution has about 75
_TOGETHER = 256  # problems decoded in one batch

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# The embedded tiny model

{parameters:,} parameters (Llama: {layers} layers of {width}), bfloat16, context {context} tokens. It works three kinds
of problem out inside `<think>` tags and answers in `\\boxed{{}}`. It knows nothing else: any other text is read, and
answered with nonsense.

Made by `python -m gen_service.training.tiny_model --seed {seed}`: {steps} steps of {batch} problems, {seconds:.0f} s on
a CPU. The last normalisation is then scaled by {gain} (1.0 is as trained): the lower, the more often a sample is wrong.

Held-out problems, {problems} of each kind, temperature 1 (the sampling error of one kind is about {error:.3f}):

| kind | pass@1 | greedy | right, but not as the gold is written | tokens in a completion |
|---|---|---|---|---|
{rows}

Versions: {versions}.
"""


@dataclass(frozen=True, slots=True)
class Score:
    """How one kind of problem went.

    Attributes:
        problems: how many were asked.
        pass_at_1: share right when sampled once at temperature 1.
        greedy: share right when decoded greedily.
        unreduced: share that was right when sampled, though not written as the gold is.
        completion_tokens: mean length of a sampled completion, end of turn included.
    """

    problems: int
    pass_at_1: float
    greedy: float
    unreduced: float
    completion_tokens: float


def chat(problem: Problem, answer: str | None = None, instruction: str | None = None) -> list[dict[str, str]]:
    """The messages of a question: a system message and the assistant's turn only where they are given."""
    turns = [("system", instruction), ("user", problem.question), ("assistant", answer)]
    return [{"role": role, "content": content} for role, content in turns if content is not None]


def right(answer: str | None, problem: Problem) -> bool:
    """Whether an answer is the gold's number, however it is written."""
    return answer is not None and value_of(answer) == value_of(problem.answer)


def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, split: Split, count: int, seed: int
) -> dict[str, Score]:
    """Ask `count` problems of each kind, once sampled at temperature 1 and once greedily.

    Returns:
        the score of each kind, and `overall`: their mean, as each kind was asked as often.
    """
    scores: dict[str, Score] = {}
    for kind in KINDS:
        asked = list(problems(split, count, seed, (kind,)))
        sampled, tokens = answers(model, tokenizer, asked, sample=True)
        greedy, _ = answers(model, tokenizer, asked, sample=False)
        scores[kind] = _score(asked, sampled, greedy, tokens)
    scores["overall"] = _mean(list(scores.values()))
    return scores


def answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, asked: Sequence[Problem], *, sample: bool
) -> tuple[list[str | None], float]:
    """The boxed answer to each problem (None without one), and the mean completion in tokens."""
    texts: list[str] = []
    tokens = 0
    for start in range(0, len(asked), _TOGETHER):
        completions = _completions(model, tokenizer, asked[start : start + _TOGETHER], sample)
        tokens += int((completions != tokenizer.pad_token_id).sum())
        texts += tokenizer.batch_decode(completions, skip_special_tokens=True)
    return [boxed(text) for text in texts], tokens / len(asked)


@torch.no_grad()
def _completions(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, asked: Sequence[Problem], sample: bool
) -> torch.Tensor:
    """Token ids, (problems, longest completion), padded on the right after each end of turn."""
    prompts = [tokenizer.apply_chat_template(chat(p), tokenize=False, add_generation_prompt=True) for p in asked]
    batch = tokenizer(prompts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
    drawing = {"temperature": 1.0, "top_p": 1.0, "top_k": 0} if sample else {"temperature": None, "top_p": None}
    written: torch.Tensor = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        do_sample=sample,
        max_new_tokens=_LONGEST_ANSWER,
        **drawing,
    )
    return written[:, batch["input_ids"].shape[1] :]


def _score(
    asked: Sequence[Problem], sampled: Sequence[str | None], greedy: Sequence[str | None], tokens: float
) -> Score:
    drawn = [answer for answer, problem in zip(sampled, asked, strict=True) if right(answer, problem)]
    golds = [problem.answer for answer, problem in zip(sampled, asked, strict=True) if right(answer, problem)]
    otherwise = sum(answer != gold for answer, gold in zip(drawn, golds, strict=True))
    decoded = sum(right(answer, problem) for answer, problem in zip(greedy, asked, strict=True))
    return Score(len(asked), len(drawn) / len(asked), decoded / len(asked), otherwise / len(asked), tokens)


def _mean(scores: Sequence[Score]) -> Score:
    share = 1 / len(scores)
    return Score(
        problems=sum(score.problems for score in scores),
        pass_at_1=sum(score.pass_at_1 for score in scores) * share,
        greedy=sum(score.greedy for score in scores) * share,
        unreduced=sum(score.unreduced for score in scores) * share,
        completion_tokens=sum(score.completion_tokens for score in scores) * share,
    )


def write_card(
    folder: Path,
    model: LlamaForCausalLM,
    recipe: Mapping[str, float],
    gain: float,
    seconds: float,
    scores: Mapping[str, Score],
) -> None:
    """Write `training.json` (version 1) and the same figures for people, `README.md`, beside the weights."""
    versions = {name: version(name) for name in ("torch", "transformers", "tokenizers", "safetensors")}
    record = {
        "version": 1,
        "recipe": dict(recipe),
        "gain": gain,
        "parameters": model.num_parameters(),
        "seconds": round(seconds, 1),
        "held_out": {name: _rounded(score) for name, score in scores.items()},
        "versions": versions,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    card = _CARD.format(
        **record | dict(recipe) | {"versions": ", ".join(f"{name} {number}" for name, number in versions.items())},
        context=model.config.max_position_embeddings,
        problems=scores[KINDS[0]].problems,
        error=0.5 / scores[KINDS[0]].problems ** 0.5,
        rows="\n".join(_row(name, score) for name, score in scores.items()),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _rounded(score: Score) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(score).items()}


def _row(name: str, score: Score) -> str:
    shares = f"{score.pass_at_1:.3f} | {score.greedy:.3f} | {score.unreduced:.3f}"
    return f"| {name} | {shares} | {score.completion_tokens:.1f} |"
