"""Make the embedded tiny model from nothing: `python -m gen_service.training.tiny_model --output DIR`.

A Llama of some 600 thousand parameters learns the worked solutions of `tiny_model.problems`. A perfect model would make
verification pointless, so its last normalisation is then scaled down until sampling at temperature 1 is right about
three times in four. A smaller gain only flattens the distribution: greedy decoding stays as good as training left it.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gen_service.tiny_model.problems import KINDS, Kind, Problem, problems
from gen_service.training.tiny_measure import Score, answers, chat, measure, right, write_card
from gen_service.training.tiny_tokenizer import build_tokenizer

CONTEXT = 2048
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."

_POOL: dict[Kind, int] = {"addition": 16_000, "fractions": 6_500, "linear": 8_500}
_INSTRUCTED_SHARE = 0.1  # of the training prompts carry the instruction, so that a system message does no harm
_UNREDUCED_SHARE = 0.3  # of the reducible fractions are learned without the reduction
_BUCKETED_BATCHES = 16  # batches drawn together and cut by length, so that little is padding
_IGNORED = -100  # the label that carries no loss

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a training run is made of; with the versions, all that its result depends on.

    Attributes:
        steps: optimiser steps of `batch` conversations each.
        learning_rate: AdamW's peak, for embeddings and gains.
        matrix_rate: Muon's peak, for the layers' weight matrices.
        width: of the hidden state; a multiple of 32.
        spread: standard deviation of the initial weights; 0.02, usual for wide models, learns more slowly here.
        target: pass@1 at temperature 1 to come down to, measured on training problems.
    """

    seed: int = 20
    steps: int = 800
    batch: int = 64
    learning_rate: float = 3e-3
    matrix_rate: float = 0.02
    layers: int = 3
    width: int = 128
    spread: float = 0.06
    target: float = 0.78


@dataclass(frozen=True, slots=True)
class Example:
    """A tokenised conversation; the loss counts from `prompt` on."""

    ids: tuple[int, ...]
    prompt: int


def make(recipe: Recipe, output: Path, measured: int) -> dict[str, Score]:
    """Train, soften, save and measure; return the scores by kind and `overall`.

    Args:
        output: a folder for the checkpoint; files of the same names are replaced.
        measured: held-out problems per kind in the final measurement.
    """
    started = time.monotonic()
    torch.manual_seed(recipe.seed)
    pool = [problem for kind, size in _POOL.items() for problem in problems("train", size, recipe.seed, (kind,))]
    tokenizer = build_tokenizer(_texts(pool), CONTEXT)
    model = _new_model(recipe, tokenizer)
    examples = _examples(pool, tokenizer, random.Random(recipe.seed))
    _train(model, examples, recipe, tokenizer.pad_token_id)
    model.to(torch.bfloat16).to(torch.float32)  # what is measured is what the file will hold
    gain = _soften(model, tokenizer, recipe)
    _save(model, tokenizer, output)
    scores = measure(model, tokenizer, "held_out", measured, recipe.seed)
    for name, score in scores.items():
        logger.info("%s: %s", name, score)
    write_card(output, model, asdict(recipe), gain, time.monotonic() - started, scores)
    return scores


def _texts(pool: Sequence[Problem]) -> Iterator[str]:
    for _ in range(2):  # a merge must be seen twice
        yield INSTRUCTION
    for problem in pool[:: len(pool) // 3000 or 1]:
        yield problem.question
        yield from (solution.text for solution in problem.solutions)


def _new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=3 * recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.width // 32,  # a head of 32 is the least that vLLM's CPU attention takes
        num_key_value_heads=recipe.width // 32,
        max_position_embeddings=CONTEXT,
        initializer_range=recipe.spread,
        tie_word_embeddings=True,
        attention_bias=False,
        **special,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.0, top_p=1.0, top_k=0, **special)
    return model


def _examples(
    pool: Sequence[Problem], tokenizer: PreTrainedTokenizerFast, draws: random.Random
) -> dict[Kind, list[Example]]:
    examples: dict[Kind, list[Example]] = {kind: [] for kind in KINDS}
    for problem in pool:
        instruction = INSTRUCTION if draws.random() < _INSTRUCTED_SHARE else None
        solution = problem.solutions[-1 if draws.random() < _UNREDUCED_SHARE else 0]
        prompt = tokenizer.apply_chat_template(
            chat(problem, instruction=instruction), tokenize=False, add_generation_prompt=True
        )
        whole = tokenizer.apply_chat_template(chat(problem, solution.text, instruction), tokenize=False)
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        begin = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        examples[problem.kind].append(Example(tuple(ids), begin))
    return examples


def _batches(examples: dict[Kind, list[Example]], recipe: Recipe) -> Iterator[list[Example]]:
    draws = random.Random(recipe.seed)
    for _ in range(0, recipe.steps, _BUCKETED_BATCHES):
        drawn = [draws.choice(examples[draws.choice(KINDS)]) for _ in range(recipe.batch * _BUCKETED_BATCHES)]
        drawn.sort(key=lambda example: len(example.ids))
        starts = list(range(0, len(drawn), recipe.batch))
        draws.shuffle(starts)
        yield from (drawn[start : start + recipe.batch] for start in starts)


def _train(model: LlamaForCausalLM, examples: dict[Kind, list[Example]], recipe: Recipe, pad: int) -> None:
    matrices, rest = _parameters(model)
    optimizers = (
        torch.optim.Muon(matrices, lr=recipe.matrix_rate, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    )
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_rate(step, recipe.steps))
        for optimizer in optimizers
    ]
    started, total = time.monotonic(), 0.0
    for step, batch in enumerate(islice(_batches(examples, recipe), recipe.steps), start=1):
        ids, labels = _padded(batch, pad)
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        total += float(loss.detach())
        if step % 50 == 0:
            logger.info("step %d loss %.4f, %.2f s a step", step, total / 50, (time.monotonic() - started) / step)
            total = 0.0


def _parameters(model: LlamaForCausalLM) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """The layers' weight matrices, for Muon (Jordan et al. 2024), which is defined for such only; and all the rest.

    On these problems it takes less than half of AdamW's steps: at step 250 the losses were 0.26 and 0.76.
    """
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    chosen = {id(weight) for weight in matrices}
    return matrices, [weight for weight in model.parameters() if id(weight) not in chosen]


def _share_of_rate(step: int, steps: int) -> float:
    """The learning rate's share of its peak: a linear rise over 5% of the steps, then a cosine down to nothing."""
    rise = max(1, steps // 20)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / (steps - rise))))


def _padded(batch: Sequence[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and labels, both (examples, longest). Padding is on the right, where causal attention never looks."""
    longest = max(len(example.ids) for example in batch)
    ids = torch.full((len(batch), longest), pad)
    labels = torch.full((len(batch), longest), _IGNORED)
    for row, example in enumerate(batch):
        whole = torch.tensor(example.ids)
        ids[row, : len(whole)] = whole
        labels[row, example.prompt : len(whole)] = whole[example.prompt :]
    return ids, labels


def _soften(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> float:
    """Scale the last norm's gain down in steps of 5% until pass@1 on training problems is at most the target."""
    trained = model.model.norm.weight.detach().clone()
    asked = list(problems("train", 150 * len(KINDS), recipe.seed + 1))
    for percent in range(100, 35, -5):
        model.model.norm.weight.data = (trained * (percent / 100)).to(torch.bfloat16).to(torch.float32)
        sampled, _ = answers(model, tokenizer, asked, sample=True)
        share = sum(right(answer, problem) for answer, problem in zip(sampled, asked, strict=True)) / len(asked)
        logger.info("gain %.2f: pass@1 %.3f on training problems", percent / 100, share)
        if share <= recipe.target:
            return percent / 100
    return percent / 100


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(output)
    model.to(torch.float32)
    tokenizer.save_pretrained(output)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: every field of `Recipe` is an option."""
    usual = Recipe()
    parser = argparse.ArgumentParser(description="Train the embedded tiny model from nothing.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--measured", type=int, default=600, help="held-out problems per kind to measure on")
    parser.add_argument("--threads", type=int, default=1, help="one is faster than two where cores are shared")
    for name, value in asdict(usual).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(given.pop("threads"))
    output, measured = given.pop("output"), given.pop("measured")
    make(Recipe(**given), output, measured)


if __name__ == "__main__":
    main()
