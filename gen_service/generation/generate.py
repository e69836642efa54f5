"""Prompts in, verified and durable traces out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from gen_service.errors import BadPromptRow, EndpointError
from gen_service.generation.intake import in_chunks
from gen_service.generation.pool import Pool, Stop
from gen_service.generation.progress import Progress
from gen_service.generation.sample_plan import SamplePlan
from gen_service.generation.supply import PROMPTS_READ_AHEAD, Remembers, Supply
from gen_service.records import CANCELLED, NO_TOKENS, Completion, Partial, Prompt, Sample, Trace, Verdict
from gen_service.settings import OrderSettings, PoolSettings, SteeringSettings, TruncationSettings

MOST_BUFFER = 512

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

    @property
    def waiting(self) -> int:
        """Samples that wait for a place at one."""
        ...

    async def complete(
        self,
        sample: Sample,
        more_tokens: int = 0,
        *,
        partial: Partial | None = None,
        on_partial: Callable[[Partial], None] | None = None,
    ) -> Completion:
        """The sample's completion, or EndpointError."""
        ...

    def cut(self, sample_id: str) -> bool:
        """End a sample with what came of it."""
        ...


class Verifies(Protocol):
    """What generation needs of the verifier."""

    async def verify(self, trace: Trace) -> Verdict:
        """Whether the trace's answer is right; never raises for what a model wrote."""
        ...


class Keeps(Remembers, Protocol[Position]):
    """What generation needs of the job's folder."""

    def recovered(self) -> Iterator[tuple[Position, Trace]]:
        """What an earlier run journaled and did not publish."""
        ...

    async def record(self, trace: Trace) -> Position:
        """Durable when it returns."""
        ...

    async def publish(self, position: Position, trace: Trace) -> None:
        """Hand the row to the shards."""
        ...

    def partial_of(self, sample_id: str) -> Partial | None:
        """What an earlier run kept of an answer that it did not finish."""
        ...

    def keep_partial(self, partial: Partial) -> None:
        """Keep what has come of an answer, some time soon."""
        ...


class Generation(Generic[Position]):
    """One job's main loop. Every sample that is taken in ends in exactly one published row, over any number of runs, or
    is accounted for as skipped, with the reason.

    Args:
        verifier: gives verdicts.
        folder: keeps traces.
        progress: counters to raise.
        order: which samples go first.
        steering: when a prompt, or the job, has enough.
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
        order: OrderSettings | None = None,
        steering: SteeringSettings | None = None,
        buffer: int | None = None,
        on_trace: Callable[[Trace], None] | None = None,
    ) -> None:
        self._plan = plan
        self._truncation = truncation
        self._pool = pool
        self._verifier = verifier
        self._folder = folder
        self._progress = progress
        self._supply = Supply(plan, order or OrderSettings(), steering or SteeringSettings(), folder, progress)
        self._buffer = max(64, min(MOST_BUFFER, pool.in_flight // 2)) if buffer is None else buffer
        self._on_trace = on_trace

    async def recover(self, stop: Stop) -> None:
        """Verify and publish what an earlier run journaled: no server is asked."""
        recovering: Pool[tuple[Position, Trace], tuple[Position, Trace]] = Pool(
            _as_it_is, self._deliver_recovered, self._buffer, self._pool.grace_s, stop
        )
        await recovering.run(in_chunks(self._folder.recovered(), PROMPTS_READ_AHEAD))

    async def has_work(self, prompts: Iterator[Prompt | BadPromptRow]) -> bool:
        """Whether any sample is neither journaled, nor published, nor skipped. Dead-letters the bad rows it passes."""
        async with aclosing(in_chunks(prompts, PROMPTS_READ_AHEAD)) as source:
            async for row in source:
                if isinstance(row, BadPromptRow):
                    self._progress.reject(row, is_new=self._folder.reject(row))
                elif not all(self._folder.is_done(sample.sample_id) for sample in self._plan.samples_of(row)):
                    return True
        return False

    async def sample(
        self, prompts: Iterator[Prompt | BadPromptRow], open_fleet: Callable[[], Awaitable[Completes]], stop: Stop
    ) -> None:
        """Sample every prompt that is not done; return when all is handed to the shards, or after a stop.

        Whatever a server, a prompt or an answer did wrong is in a row; only a bug or a broken store raises.

        Args:
            open_fleet: called once, when the first sample is met that is not done: a finished job asks no server.
        """
        async with aclosing(self._supply.samples(prompts, stop)) as samples:
            first = await anext(samples, None)
            if first is not None:
                await self._sample_all(_preceded(first, samples), await open_fleet(), stop)

    async def _sample_all(self, samples: AsyncGenerator[Sample, None], fleet: Completes, stop: Stop) -> None:
        async def make(sample: Sample) -> Trace | None:
            return await self._sample(sample, fleet)

        sampling = Pool(
            *(make, self._deliver, self._buffer, self._pool.grace_s, stop),
            in_flight=lambda: fleet.in_flight,
            waiting=lambda: fleet.waiting,
        )
        fleet.on_bound = sampling.look
        self._supply.cut = fleet.cut
        await sampling.run(samples)
        self._progress.interrupted = sampling.interrupted

    async def _sample(self, sample: Sample, fleet: Completes) -> Trace | None:
        """The sample's row; None when it was cut before anything came of it."""

        def on_partial(partial: Partial) -> None:
            self._folder.keep_partial(partial)
            self._supply.running(sample, len(partial.token_ids))

        if not self._supply.is_needed(sample):
            self._supply.came(sample, None)
            self._supply.withdrawn(sample)
            return None
        more = self._truncation.extra_tokens if self._truncation.policy == "continue" else 0
        partial, tokens = self._folder.partial_of(sample.sample_id), None
        try:
            completion = await fleet.complete(sample, more, partial=partial, on_partial=on_partial)
            tokens = None if completion.finish_reason == CANCELLED else completion.completion_tokens
        except EndpointError as error:
            return Trace(sample, None, error=str(error), retries=error.retries)
        finally:
            self._supply.came(sample, tokens)
        # A server's own word for it is an answer as any other.
        is_cut = completion.finish_reason == CANCELLED and not self._supply.is_needed(sample)
        if is_cut and not completion.completion_tokens:
            self._supply.withdrawn(sample)
            return None
        return Trace(sample, completion)

    async def _deliver(self, trace: Trace | None) -> None:
        """Durable first, then verified, then published."""
        if trace is not None:
            await self._supply.ended(await self._publish(await self._folder.record(trace), trace))

    async def _deliver_recovered(self, found: tuple[Position, Trace]) -> None:
        self._progress.recovered += 1
        await self._publish(*found)

    async def _publish(self, position: Position, trace: Trace) -> Trace:
        finished = self._without_dropped_text(replace(trace, verdict=await self._verifier.verify(trace)))
        await self._folder.publish(position, finished)
        self._progress.count(finished)
        if self._on_trace is not None:
            self._on_trace(finished)
        return finished

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
