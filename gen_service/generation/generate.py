"""Prompts in, verified and durable traces out."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from gen_service.errors import BadPromptRow, EndpointError
from gen_service.generation.intake import in_chunks
from gen_service.generation.pool import Pool, Stop
from gen_service.generation.progress import Progress
from gen_service.records import NO_TOKENS, Completion, Prompt, Sample, Trace, Verdict
from gen_service.settings import PoolSettings, TruncationSettings

PROMPTS_READ_AHEAD = 64

Position = TypeVar("Position")


class Completes(Protocol):
    """What generation needs of the fleet.

    Attributes:
        on_bound: called each time a sample gets a place at a server.
    """

    on_bound: Callable[[], None]

    @property
    def in_flight(self) -> int:
        """Samples at a server now."""
        ...

    async def complete(self, sample: Sample, more_tokens: int = 0) -> Completion:
        """The sample's completion, or EndpointError."""
        ...


class Verifies(Protocol):
    """What generation needs of the verifier."""

    async def verify(self, trace: Trace) -> Verdict:
        """Whether the trace's answer is right; never raises for what a model wrote."""
        ...


class Keeps(Protocol[Position]):
    """What generation needs of the job's folder."""

    def is_done(self, sample_id: str) -> bool:
        """Whether the sample is in the journal or published."""
        ...

    def recovered(self) -> Iterator[tuple[Position, Trace]]:
        """What an earlier run journaled and did not publish."""
        ...

    async def record(self, trace: Trace) -> Position:
        """Durable when it returns."""
        ...

    async def publish(self, position: Position, trace: Trace) -> None:
        """Hand the row to the shards."""
        ...

    def reject(self, bad: BadPromptRow) -> bool:
        """Dead-letter a row; False when an earlier run already did."""
        ...


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


class Generation(Generic[Position]):
    """One job's main loop. Every sample that is taken in ends in exactly one published row, over any number of runs.

    Args:
        verifier: gives verdicts.
        folder: keeps traces.
        progress: counters to raise.
        buffer: samples that are open and not in flight, at most: read and waiting for a server, or on their way from
            the last token to the shard. None for enough to keep a fleet busy alone.
        on_trace: given each trace when it is published.
    """

    def __init__(
        self,
        plan: SamplePlan,
        truncation: TruncationSettings,
        pool: PoolSettings,
        verifier: Verifies,
        folder: Keeps[Position],
        progress: Progress,
        *,
        buffer: int | None = None,
        on_trace: Callable[[Trace], None] | None = None,
    ) -> None:
        self._plan = plan
        self._truncation = truncation
        self._pool = pool
        self._verifier = verifier
        self._folder = folder
        self._progress = progress
        self._buffer = max(64, pool.in_flight // 2) if buffer is None else buffer
        self._on_trace = on_trace

    async def recover(self, stop: Stop) -> None:
        """Verify and publish what an earlier run journaled: no server is asked."""
        recovering: Pool[tuple[Position, Trace], tuple[Position, Trace]] = Pool(
            _as_it_is, self._deliver_recovered, self._buffer, self._pool.grace_s, stop
        )
        await recovering.run(in_chunks(self._folder.recovered(), PROMPTS_READ_AHEAD))

    async def has_work(self, prompts: Iterator[Prompt | BadPromptRow]) -> bool:
        """Whether any sample is neither journaled nor published. Dead-letters the bad rows it passes."""
        async with aclosing(self._samples(prompts, Stop())) as samples:
            return await anext(samples, None) is not None

    async def sample(
        self, prompts: Iterator[Prompt | BadPromptRow], open_fleet: Callable[[], Awaitable[Completes]], stop: Stop
    ) -> None:
        """Sample every prompt that is not done; return when all is handed to the shards, or after a stop.

        Whatever a server, a prompt or an answer did wrong is in a row; only a bug or a broken store raises.

        Args:
            open_fleet: called once, when the first sample is met that is not done: a finished job asks no server.
        """
        async with aclosing(self._samples(prompts, stop)) as samples:
            first = await anext(samples, None)
            if first is not None:
                await self._sample_all(_preceded(first, samples), await open_fleet(), stop)

    async def _sample_all(self, samples: AsyncGenerator[Sample, None], fleet: Completes, stop: Stop) -> None:
        async def make(sample: Sample) -> Trace:
            return await self._sample(sample, fleet)

        sampling = Pool(make, self._deliver, self._buffer, self._pool.grace_s, stop, in_flight=lambda: fleet.in_flight)
        fleet.on_bound = sampling.look
        await sampling.run(samples)
        self._progress.interrupted = sampling.interrupted

    async def _samples(self, prompts: Iterator[Prompt | BadPromptRow], stop: Stop) -> AsyncGenerator[Sample, None]:
        async with aclosing(in_chunks(prompts, PROMPTS_READ_AHEAD)) as source:
            async for prompt in source:
                if stop.asked:
                    return
                if isinstance(prompt, BadPromptRow):
                    self._progress.reject(prompt, is_new=self._folder.reject(prompt))
                    continue
                left = [one for one in self._plan.samples_of(prompt) if not self._folder.is_done(one.sample_id)]
                for sample in left:
                    yield sample
                if not left:
                    # A chunk of prompts whose samples are all done would else hold up the event loop as a whole.
                    await asyncio.sleep(0)
        self._progress.exhaust()

    async def _sample(self, sample: Sample, fleet: Completes) -> Trace:
        more = self._truncation.extra_tokens if self._truncation.policy == "continue" else 0
        try:
            completion = await fleet.complete(sample, more)
        except EndpointError as error:
            return Trace(sample, None, error=str(error), retries=error.retries)
        return Trace(sample, completion)

    async def _deliver(self, trace: Trace) -> None:
        """Durable first, then verified, then published."""
        await self._publish(await self._folder.record(trace), trace)

    async def _deliver_recovered(self, found: tuple[Position, Trace]) -> None:
        self._progress.recovered += 1
        await self._publish(*found)

    async def _publish(self, position: Position, trace: Trace) -> None:
        finished = self._without_dropped_text(replace(trace, verdict=await self._verifier.verify(trace)))
        await self._folder.publish(position, finished)
        self._progress.count(finished)
        if self._on_trace is not None:
            self._on_trace(finished)

    def _without_dropped_text(self, trace: Trace) -> Trace:
        completion = trace.completion
        if self._truncation.policy != "drop" or completion is None or completion.finish_reason != "length":
            return trace
        emptied = replace(completion, reasoning=None, content="", token_ids=NO_TOKENS)
        reason = f"cut off at {completion.completion_tokens} tokens; the text is dropped by policy"
        return replace(trace, completion=emptied, verdict=Verdict("truncated", reason))


async def _preceded(first: Sample, rest: AsyncGenerator[Sample, None]) -> AsyncGenerator[Sample, None]:
    yield first
    async for sample in rest:
        yield sample


async def _as_it_is(item: tuple[Position, Trace]) -> tuple[Position, Trace]:
    return item
