"""What is asked of each prompt, and the names of its samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from gen_service.records import Prompt, Sample


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """What is asked of each prompt.

    Attributes:
        job_id: the job.
        samples: completions per prompt.
        parameters: hash of everything that shapes an answer (model, sampling, template).
        seed: base of the per-sample seeds that are sent along, or None to send none.
    """

    job_id: str
    samples: int
    parameters: str
    seed: int | None = None

    def samples_of(self, prompt: Prompt) -> Iterator[Sample]:
        """The prompt's samples: the same ids and seeds on every run. A prompt with a request says itself how many."""
        for index in range(self.samples if prompt.request is None else prompt.request.n):
            key = "\x1f".join((self.job_id, prompt.prompt_id, str(index), self.parameters))
            digest = hashlib.blake2b(key.encode(), digest_size=16)
            seed = None if self.seed is None else (int.from_bytes(digest.digest()[:4]) ^ self.seed) & 0x7FFFFFFF
            yield Sample(digest.hexdigest(), self.job_id, prompt, index, seed)
