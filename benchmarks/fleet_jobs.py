"""One job's samples through the real pool, fleet, limit and order, on any client; and the shape of the benchmark."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.checked_folder import CheckedFolder
from gen_service.endpoints.fleet import Fleet
from gen_service.endpoints.job_fleet import JobFleet
from gen_service.endpoints.shares import Share
from gen_service.generation.generate import Generation
from gen_service.generation.pool import Stop
from gen_service.generation.progress import Progress
from gen_service.generation.sample_plan import SamplePlan
from gen_service.records import Message, Outcome, Prompt, Sample, Trace, Verdict
from gen_service.settings import (
    OrderSettings,
    PoolSettings,
    SamplingSettings,
    SteeringSettings,
    TruncationSettings,
)


@dataclass(frozen=True, slots=True)
class SimulatedJob:
    """A job of made-up prompts.

    Attributes:
        name: begins each prompt's id, so that answers of two jobs differ.
        samples: of each prompt.
        p_right: chance of a right answer.
    """

    name: str
    prompts: int
    samples: int
    max_tokens: int = 32768
    p_right: float = 0.5

    @property
    def plan(self) -> SamplePlan:
        """The names of its samples."""
        return SamplePlan(self.name, self.samples, "simulated")

    def read(self) -> Iterator[Prompt]:
        """Its prompts."""
        for number in range(self.prompts):
            words = f"Problem {number} of {self.name}: " + "what is it? " * 31
            yield Prompt(f"{self.name}/{number}", (Message(role="user", content=words),), "1", self.name, number + 1)

    def all_samples(self) -> Iterator[Sample]:
        """Its samples, prompt by prompt."""
        for prompt in self.read():
            yield from self.plan.samples_of(prompt)


class ChanceVerifier:
    """Verdicts drawn from the sample's id: the same over any number of runs."""

    def __init__(self, p_right: float, others: tuple[Outcome, ...] = ("incorrect",)) -> None:
        self._p_right = p_right
        self._others = others

    async def verify(self, trace: Trace) -> Verdict:
        """Right with the given chance, else one of the others; a cut or failed answer is what it is."""
        if trace.completion is None:
            return Verdict("error", trace.error or "")
        if trace.completion.finish_reason != "stop":
            return Verdict("truncated", "cut off")
        if self.is_right(trace.sample.sample_id):
            return Verdict("correct", "drawn")
        return Verdict(self._others[int(_drawn(trace.sample.sample_id) * 1e6) % len(self._others)], "drawn")

    def is_right(self, sample_id: str) -> bool:
        """Whether a whole answer of the sample is right."""
        return _drawn(sample_id) < self._p_right


def _drawn(sample_id: str) -> float:
    return int.from_bytes(hashlib.blake2b(sample_id.encode(), digest_size=8).digest()) / 2**64


async def run_job(
    job: SimulatedJob,
    fleet: Fleet,
    folder: CheckedFolder,
    verifier: ChanceVerifier,
    *,
    order: OrderSettings | None = None,
    steering: SteeringSettings | None = None,
    pool: PoolSettings | None = None,
    share: Share | None = None,
    stop: Stop | None = None,
) -> Progress:
    """Run a job to its end, or until it is stopped, beside others on the same fleet."""
    sampling = SamplingSettings(max_tokens=job.max_tokens)
    correct = sum(outcome == "correct" for outcome in folder.rows.values())
    progress = Progress(
        already=len(folder.rows),
        already_correct=correct,
        already_tokens=folder.tokens,
        already_skipped=len(folder.skipped),
    )
    joined: list[JobFleet] = []

    async def join() -> JobFleet:
        joined.append(fleet.join(share or Share(job.name), sampling, None, lambda _: None))
        return joined[0]

    loop = Generation(
        *(job.plan, TruncationSettings(), pool or PoolSettings(), verifier, folder, progress),
        order=order,
        steering=steering,
    )
    stop = stop or Stop()
    try:
        await loop.recover(stop)
        await loop.sample(job.read(), join, stop)
    finally:
        for one in joined:
            one.leave()
        await asyncio.sleep(0)
    return progress
