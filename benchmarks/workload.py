"""The jobs that are measured: sums as prompts, and a spec over simulated servers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gen_service.endpoints.simulated import render_chat
from gen_service.generation.sample_plan import SamplePlan
from gen_service.jobs.job import JobSpec, make_spec
from gen_service.records import Prompt, Sample
from gen_service.storage import prompts as prompt_source
from gen_service.storage.seen import Seen

SEED = 20_240_607


def write_sums(path: Path, count: int, *, marker: str = "", marked: int = 0) -> Path:
    """A JSONL file of `count` sums with their answers.

    Args:
        marker: put into the first `marked` prompts, for servers that refuse it.
    """
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            first, second = 1_000 + number, 7 * number + 3
            words = f"What is {first} + {second}?" + (f" {marker}" if number < marked else "")
            file.write(json.dumps({"id": f"sum-{number}", "prompt": words, "answer": str(first + second)}) + "\n")
    return path


def sums_spec(folder: Path, source: Path, urls: Sequence[str], **sections: Any) -> JobSpec:
    """A job over the prompts in `source` that writes under `folder`.

    Args:
        sections: values over the spec's defaults.
    """
    document: dict[str, Any] = {
        "name": "job",
        "prompts": {"path": str(source)},
        "endpoints": {"urls": list(urls), "model": "simulated"},
        "sampling": {"max_tokens": 16384},
        "output": {"path": str(folder / "out")},
    }
    for name, value in sections.items():
        document[name] = {**document[name], **value} if isinstance(document.get(name), dict) else value
    return make_spec(document)


def samples_of(spec: JobSpec, scratch: Path) -> Iterator[Sample]:
    """Every sample of a job, in the order they are asked for."""
    plan = SamplePlan(spec.job_id, spec.samples, spec.parameters, spec.sampling.seed)
    with Seen(scratch / "prompts-seen") as seen:
        for prompt in prompt_source.read(spec.prompts, seen):
            if isinstance(prompt, Prompt):
                yield from plan.samples_of(prompt)


def prompt_text(sample: Sample) -> str:
    """The rendered prompt that a simulated server computes its answer from."""
    return render_chat([{"role": turn["role"], "content": turn["content"]} for turn in sample.prompt.messages])


def write_requests(path: Path, samples: Sequence[Sample]) -> Path:
    """The same samples for the bare loop: one JSON line each, with the request's id and messages."""
    with path.open("w", encoding="utf-8") as file:
        for sample in samples:
            file.write(json.dumps({"id": sample.sample_id, "messages": sample.prompt.messages}) + "\n")
    return path
