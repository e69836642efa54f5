"""Is every sample where it should be? Compares a job's prompts with its published rows, apart from its own books."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gen_service.errors import BadPromptRow
from gen_service.generation.sample_plan import SamplePlan
from gen_service.jobs.job import JobSpec
from gen_service.jobs.runner import location
from gen_service.storage import prompts as prompt_source
from gen_service.storage.seen import Seen
from gen_service.storage.skipped import read_skipped
from gen_service.storage.traces import read_batches


@dataclass(frozen=True, slots=True)
class Audit:
    """What the prompts ask for against what is published.

    Attributes:
        expected: samples that the usable prompts ask for.
        published: rows in the published files.
        skipped: samples accounted for as not needed.
        doubled: rows whose sample id was published before, and skipped samples that have a row or were skipped before.
        missing: samples asked for that have no row and are not skipped.
        rejected: prompt rows that cannot be used.
    """

    expected: int
    published: int
    skipped: int
    doubled: int
    missing: int
    rejected: int

    @property
    def sound(self) -> bool:
        """Whether each expected sample has exactly one row, or is skipped once."""
        return not self.doubled and not self.missing


def audit(spec: JobSpec) -> Audit:
    """Read the prompts and the published sample ids again and compare them; memory does not grow with either.

    Raises:
        SpecError: the prompts cannot be read, or the job has no folder.
    """
    plan = SamplePlan(spec.job_id, spec.samples, spec.parameters, spec.sampling.seed)
    expected = missing = rejected = published = skipped = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gen-service-")))
        ids, seen = (stack.enter_context(Seen(folder / name)) for name in ("published", "prompts"))
        for batch in read_batches(location(spec), ["sample_id"]):
            published += batch.num_rows
            ids.add_many(batch.column("sample_id").to_pylist())
        for row in read_skipped(location(spec)):
            skipped += 1
            ids.add(row["sample_id"])
        doubled = published + skipped - len(ids)
        for prompt in prompt_source.read(spec.prompts, seen):
            if isinstance(prompt, BadPromptRow):
                rejected += 1
                continue
            samples = list(plan.samples_of(prompt))
            expected += len(samples)
            missing += sum(sample.sample_id not in ids for sample in samples)
    return Audit(expected, published, skipped, doubled, missing, rejected)
