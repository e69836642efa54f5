"""Which sample is asked for next: reading on, ordering and steering together, against any history of answers."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_service.errors import BadPromptRow
from gen_service.generation.pool import Stop
from gen_service.generation.progress import Progress
from gen_service.generation.sample_plan import SamplePlan
from gen_service.generation.supply import AT_A_TURN, Supply
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
        self._cut: set[asyncio.Future[None]] = set()
        supply.cut = self.cut

    def cut(self, sample_id: str) -> None:
        if (sample := self.in_flight.pop(sample_id, None)) is not None:
            self._cut.add(asyncio.ensure_future(self._end_cut(sample)))

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
                await self._answer(self.in_flight.pop(self._random.choice(sorted(self.in_flight))))
            await asyncio.sleep(0)
        if asking is not None:
            asking.cancel()
            await asyncio.wait({asking})
        await samples.aclose()
        await asyncio.gather(*self._cut)
        return ended

    async def _answer(self, sample: Sample) -> None:
        outcome: Outcome = self._random.choice(["correct", "incorrect", "incorrect", "ungradable", "error"])
        self._supply.came(sample, None if outcome == "error" else self._random.randrange(1, 30_000))
        await self._end(sample, outcome)

    async def _end(self, sample: Sample, outcome: Outcome) -> None:
        completion = None if outcome == "error" else replace(COMPLETION, completion_tokens=100)
        trace = Trace(sample, completion, Verdict(outcome, ""))
        assert not self._memory.is_done(sample.sample_id)
        self._memory.rows[sample.sample_id] = outcome
        self._progress.count(trace)
        await self._supply.ended(trace)

    async def _end_cut(self, sample: Sample) -> None:
        self._supply.came(sample, None)
        if self._random.random() < 0.5:
            self._supply.withdrawn(sample)
        else:
            await self._end(sample, "truncated")


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


def judged(sample: Sample, outcome: Outcome, tokens: int) -> Trace:
    return Trace(sample, replace(COMPLETION, completion_tokens=tokens), Verdict(outcome, ""))


async def test_samples_that_a_budget_may_not_have_room_for_are_asked_for_when_it_has() -> None:
    plan, progress = SamplePlan("job", 6, "parameters"), Progress()
    supply = Supply(plan, OrderSettings(), SteeringSettings(token_budget=1000), Memory(), progress)
    samples = supply.samples(iter([prompt(0)]), Stop())
    await supply.ended(judged(await anext(samples), "incorrect", 600))
    second = await anext(samples)
    # One more in flight, as long as the first, would be more than the budget has left. The second turns out short.
    third = asyncio.ensure_future(anext(samples))
    await asyncio.wait({third}, timeout=0.01)
    assert not third.done()
    assert not progress.exhausted
    await supply.ended(judged(second, "incorrect", 1))
    assert (await third).index == 2
    await samples.aclose()


async def test_under_a_budget_prompts_without_a_right_answer_go_first() -> None:
    plan = SamplePlan("job", 3, "parameters")
    supply = Supply(plan, OrderSettings(), SteeringSettings(sample_budget=5), Memory(), Progress())
    samples = supply.samples(iter([prompt(0), prompt(1)]), Stop())
    right, wrong = await anext(samples), await anext(samples)
    # Longer answers alone would have the first prompt's samples go first.
    supply.came(right, 9000)
    await supply.ended(judged(right, "correct", 9000))
    supply.came(wrong, 10)
    await supply.ended(judged(wrong, "incorrect", 10))
    rest = [sample async for sample in samples]
    assert [sample.prompt.prompt_id for sample in rest] == [wrong.prompt.prompt_id] * 2 + [right.prompt.prompt_id]


async def test_the_last_right_answer_leaves_the_event_loop_to_others_while_the_rest_is_skipped() -> None:
    progress = Progress()
    steering = SteeringSettings(verified=1)
    supply = Supply(SamplePlan("job", 50, "parameters"), OrderSettings(), steering, Memory(), progress)
    samples = supply.samples((prompt(number) for number in range(200)), Stop())
    taken = [await anext(samples) for _ in range(110)]
    cut: list[str] = []
    supply.cut = cut.append
    ending = asyncio.ensure_future(supply.ended(judged(taken[0], "correct", 100)))
    steps = [0]
    while not ending.done():
        await asyncio.sleep(0)
        steps.append(progress.skipped["target_reached"])
    assert max(after - before for before, after in pairwise(steps)) == AT_A_TURN
    assert sorted(cut) == sorted(sample.sample_id for sample in taken[1:])
    assert [sample async for sample in samples] == []
    assert progress.exhausted
    assert progress.done == 200 * 50 - 110
    assert progress.skipped.total() == 200 * 50 - 110


async def test_prompts_of_many_samples_are_read_as_far_as_memory_is_meant_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Counting(Memory):
        looked_up = 0

        def is_done(self, sample_id: str) -> bool:
            self.looked_up += 1
            return super().is_done(sample_id)

    monkeypatch.setattr("gen_service.generation.supply.MOST_UNSENT", 40)
    for steering, most in ((SteeringSettings(), 100), (SteeringSettings(correct=1), 5)):
        memory = Counting()
        supply = Supply(SamplePlan("job", 10, "parameters"), OrderSettings(), steering, memory, Progress())
        samples = supply.samples((prompt(number) for number in range(1000)), Stop())
        for number in range(1, most + 1):
            await anext(samples)
            assert memory.looked_up - number < 40 + 10
        if steering.is_on:
            # Five prompts have one sample in flight each, and 45 that wait for its verdict.
            waiting = asyncio.ensure_future(anext(samples))
            await asyncio.wait({waiting}, timeout=0.01)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.wait({waiting})
        await samples.aclose()


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
