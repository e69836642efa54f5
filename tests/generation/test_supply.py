"""Which sample is asked for next: reading on, ordering and steering together, against any history of answers."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gen_service.errors import BadPromptRow
from gen_service.generation.pool import Stop
from gen_service.generation.progress import Progress
from gen_service.generation.sample_plan import SamplePlan
from gen_service.generation.supply import Supply
from gen_service.records import NO_TOKENS, Completion, Message, Outcome, Prompt, Sample, Skipped, Trace, Verdict
from gen_service.settings import OrderSettings, SteeringSettings

COMPLETION = Completion(None, "text", "stop", 10, 100, NO_TOKENS, "model", "url", 0, (), 0.0, None, 1.0)


def prompt(number: int) -> Prompt:
    return Prompt(f"p{number}", (Message(role="user", content="?" * (number % 7 + 1)),), "1", "tests", number + 1)


class Memory:
    """What the supply needs of a folder, and what became of each sample."""

    def __init__(self) -> None:
        self.rows: dict[str, Outcome] = {}
        self.skipped: dict[str, Skipped] = {}
        self.rejected = 0

    def is_done(self, sample_id: str) -> bool:
        return sample_id in self.rows or sample_id in self.skipped

    def is_correct(self, sample_id: str) -> bool:
        return self.rows.get(sample_id) == "correct"

    def is_ungradable(self, sample_id: str) -> bool:
        return self.rows.get(sample_id) == "ungradable"

    def is_skipped(self, sample_id: str) -> bool:
        return sample_id in self.skipped

    async def keep_up(self) -> None:
        await asyncio.sleep(0)

    def skip(self, skipped: Skipped) -> None:
        assert not self.is_done(skipped.sample_id)
        self.skipped[skipped.sample_id] = skipped

    def reject(self, bad: BadPromptRow) -> bool:
        self.rejected += 1
        return True


class Servers:
    """Answers samples in a random order with random verdicts, `places` at a time, until it is told to stop."""

    def __init__(self, supply: Supply, memory: Memory, progress: Progress, seed: int, places: int) -> None:
        self.sent: list[Sample] = []
        self.in_flight: dict[str, Sample] = {}
        self._supply, self._memory, self._progress = supply, memory, progress
        self._random = random.Random(seed)
        self._places = places
        supply.cut = self.cut

    def cut(self, sample_id: str) -> None:
        sample = self.in_flight.pop(sample_id)
        asyncio.get_running_loop().call_soon(self._end_cut, sample)

    async def run(self, source: Iterator[Prompt | BadPromptRow], most: int) -> bool:
        """Whether the supply ended by itself, not after the most samples."""
        samples = self._supply.samples(source, Stop())
        asking: asyncio.Task[Sample | None] | None = None
        ended = False
        while len(self.sent) < most and not (ended and not self.in_flight):
            if asking is None and not ended and len(self.in_flight) < self._places:
                asking = asyncio.ensure_future(anext(samples, None))
            # The source is read in a thread: what does not come within these turns waits for an answer.
            if asking is not None:
                await asyncio.wait({asking}, timeout=None if not self.in_flight else 0.002)
            if asking is not None and asking.done():
                sample = asking.result()
                asking, ended = None, sample is None
                if sample is not None:
                    self.sent.append(sample)
                    self.in_flight[sample.sample_id] = sample
            elif self.in_flight:
                self._answer(self.in_flight.pop(self._random.choice(sorted(self.in_flight))))
            await asyncio.sleep(0)
        if asking is not None:
            asking.cancel()
            await asyncio.wait({asking})
        await samples.aclose()
        await asyncio.sleep(0)
        return ended

    def _answer(self, sample: Sample) -> None:
        outcome: Outcome = self._random.choice(["correct", "incorrect", "incorrect", "ungradable", "error"])
        self._supply.came(sample, None if outcome == "error" else self._random.randrange(1, 30_000))
        self._end(sample, outcome)

    def _end(self, sample: Sample, outcome: Outcome) -> None:
        completion = None if outcome == "error" else replace(COMPLETION, completion_tokens=100)
        trace = Trace(sample, completion, Verdict(outcome, ""))
        assert not self._memory.is_done(sample.sample_id)
        self._memory.rows[sample.sample_id] = outcome
        self._progress.count(trace)
        self._supply.ended(trace)

    def _end_cut(self, sample: Sample) -> None:
        self._supply.came(sample, None)
        if self._random.random() < 0.5:
            self._supply.withdrawn(sample)
        else:
            self._end(sample, "truncated")


def continued(memory: Memory) -> Progress:
    """The progress of a run that goes on from what an earlier one did."""
    correct = sum(outcome == "correct" for outcome in memory.rows.values())
    tokens = 100 * sum(outcome != "error" for outcome in memory.rows.values())
    return Progress(
        already=len(memory.rows), already_correct=correct, already_tokens=tokens, already_skipped=len(memory.skipped)
    )


steerings = st.builds(
    SteeringSettings,
    correct=st.none() | st.integers(1, 2),
    give_up_after=st.none() | st.integers(1, 4),
    drop_ungradable=st.booleans(),
    verified=st.none() | st.integers(1, 12),
    sample_budget=st.none() | st.integers(1, 40),
    token_budget=st.none() | st.integers(1, 4000),
)


@settings(max_examples=150, deadline=None)
@given(
    prompts=st.integers(0, 12),
    samples=st.integers(2, 5),
    window=st.integers(1, 6),
    policy=st.sampled_from(["longest_first", "as_read"]),
    steering=steerings,
    places=st.integers(1, 8),
    seed=st.integers(0, 10_000),
    stops=st.lists(st.integers(0, 20), max_size=2),
)
def test_over_any_runs_each_sample_has_a_row_or_a_reason(
    prompts: int,
    samples: int,
    window: int,
    policy: str,
    steering: SteeringSettings,
    places: int,
    seed: int,
    stops: list[int],
) -> None:
    memory, plan = Memory(), SamplePlan("job", samples, "parameters")
    order = OrderSettings.model_validate({"policy": policy, "window": window})
    progress = Progress()
    for most in (*stops, 10_000):
        progress = continued(memory)
        supply = Supply(plan, order, steering, memory, progress)
        servers = Servers(supply, memory, progress, seed + most, places)
        ended = asyncio.run(servers.run(iter([prompt(number) for number in range(prompts)]), most))
    assert ended
    assert progress.exhausted
    wanted = {sample.sample_id for number in range(prompts) for sample in plan.samples_of(prompt(number))}
    assert memory.rows.keys() | memory.skipped.keys() == wanted
    assert not memory.rows.keys() & memory.skipped.keys()
    assert progress.done == len(wanted)
    reasons = Counter(skipped.reason for skipped in memory.skipped.values())
    if not steering.is_on:
        assert not reasons


async def given_out(plan: SamplePlan, order: OrderSettings, prompts: int) -> list[Sample]:
    supply = Supply(plan, order, SteeringSettings(), Memory(), Progress())
    return [sample async for sample in supply.samples((prompt(number) for number in range(prompts)), Stop())]


async def test_each_prompt_in_the_window_is_probed_before_any_second_sample() -> None:
    out = await given_out(SamplePlan("job", 3, "parameters"), OrderSettings(), 300)
    assert len(out) == 900
    assert {sample.prompt.prompt_id for sample in out[:300]} == {f"p{number}" for number in range(300)}


async def test_as_read_keeps_the_order_of_the_source() -> None:
    out = await given_out(SamplePlan("job", 2, "parameters"), OrderSettings(policy="as_read"), 70)
    assert [(sample.prompt.row, sample.index) for sample in out] == [(row, i) for row in range(1, 71) for i in (0, 1)]


async def test_no_more_prompts_are_read_than_the_window_and_a_chunk_hold() -> None:
    read = 0

    def source() -> Iterator[Prompt]:
        nonlocal read
        for number in range(10_000):
            read += 1
            yield prompt(number)

    supply = Supply(SamplePlan("job", 4, "p"), OrderSettings(window=100), SteeringSettings(), Memory(), Progress())
    samples = supply.samples(source(), Stop())
    taken = [await anext(samples) for _ in range(300)]
    await samples.aclose()
    assert len(taken) == 300
    # 300 samples empty 75 prompts at most.
    assert 100 <= read <= 100 + 75 + 64
