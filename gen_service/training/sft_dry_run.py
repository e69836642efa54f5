"""Shows what an SFT run would learn from what, without training and without writing anything."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from gen_service.training.chat import ChatFormat
from gen_service.training.models import load_tokenizer
from gen_service.training.pinned_traces import pinned
from gen_service.training.record_file import began_with
from gen_service.training.sft import longest_example
from gen_service.training.sft_spec import SftSpec
from gen_service.training.trace_examples import Example, TraceExamples


def sft_dry_run(spec: SftSpec) -> Iterator[str]:
    """Lines for people: the whole spec as YAML, what is kept and left out of the traces, and the first example.

    Reads all traces, as the run would.

    Raises:
        SpecError, StorageError: as the run would before its first step.
    """
    yield yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip()
    tokenizer = load_tokenizer(spec.model)
    chat = ChatFormat(tokenizer, spec.answer_break)
    context = longest_example(spec)
    pins = pinned(spec.traces, began_with(spec.run))
    examples, first = TraceExamples(spec.traces, chat, context, pins), None
    for example in examples:
        if first is None and not example.is_held_out:
            first = example
    counts = examples.counts
    yield f"traces: {counts.words()}"
    tokens = f"{counts.completion_tokens:,} tokens with loss, {counts.prompt_tokens:,} without"
    yield f"examples: {counts.train:,}, {tokens}; the longest has {counts.longest:,} tokens of {context:,}"
    if first is not None:
        yield from _shown(first, tokenizer)


def _shown(example: Example, tokenizer: object) -> Iterator[str]:
    decode = tokenizer.decode  # type: ignore[attr-defined]  # transformers has no types
    yield f"--- the first example: prompt, {len(example.prompt_ids)} tokens without loss"
    yield decode(example.prompt_ids)
    yield f"--- completion, {len(example.completion_ids)} tokens with loss, end of turn included"
    yield decode(example.completion_ids)
    yield "---"
