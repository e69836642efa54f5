"""What a plan needs to know of a job's prompts: how many there are, and how long; found by reading them all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gen_service.errors import BadPromptRow, SpecError
from gen_service.jobs.job import JobSpec
from gen_service.records import Prompt
from gen_service.storage import prompts as prompt_source
from gen_service.storage.seen import Seen

CHARACTERS_PER_TOKEN = 4
"""Of English text in the tokenizers of today's models, about; formulas have fewer."""


@dataclass(frozen=True, slots=True)
class JobShape:
    """The job's prompts.

    Attributes:
        prompts: the first ones, to be simulated: without their gold, which a plan does not look at.
        prompts_in_all: usable prompts of the source.
        samples_in_all: completions that the spec asks for at most.
        rejected: rows that are no prompts.
        prompt_tokens: estimated, of all samples' prompts together.
    """

    prompts: tuple[Prompt, ...]
    prompts_in_all: int
    samples_in_all: int
    rejected: int
    prompt_tokens: int

    @property
    def is_whole(self) -> bool:
        """Whether all prompts are simulated."""
        return len(self.prompts) == self.prompts_in_all


def prompt_tokens(prompt: Prompt) -> int:
    """Estimated tokens of a prompt: a token for each four characters, and four for each turn of the chat."""
    return sum(len(message["content"]) // CHARACTERS_PER_TOKEN + 4 for message in prompt.messages) + 1


def read_shape(spec: JobSpec, most_samples: int) -> JobShape:
    """Read the spec's source from its first row to its last, as the job would.

    Args:
        most_samples: as many prompts are kept as make this many samples, at least one.

    Raises:
        SpecError: the source cannot be read, or holds no prompt.
    """
    kept: list[Prompt] = []
    count = kept_samples = samples = rejected = tokens = 0
    for row in _rows(spec):
        if isinstance(row, BadPromptRow):
            rejected += 1
            continue
        wanted = spec.samples if row.request is None else row.request.n
        count += 1
        samples += wanted
        tokens += wanted * prompt_tokens(row)
        if not kept or (len(kept) == count - 1 and kept_samples + wanted <= most_samples):
            kept.append(replace(row, answer=None))
            kept_samples += wanted
    if not kept:
        raise SpecError("prompts.path", spec.prompts.path, "a source with at least one usable prompt")
    return JobShape(tuple(kept), count, samples, rejected, tokens)


def _rows(spec: JobSpec) -> Iterator[Prompt | BadPromptRow]:
    with tempfile.TemporaryDirectory(prefix="gen-service-plan-") as folder, Seen(Path(folder) / "prompts") as seen:
        yield from prompt_source.read(spec.prompts, seen)
