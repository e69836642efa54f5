"""Which sample is asked for next: prompts are read ahead and ordered, and what came of some decides about others."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Protocol

from gen_service.errors import BadPromptRow
from gen_service.generation.intake import in_chunks
from gen_service.generation.order import Order
from gen_service.generation.pool import Stop
from gen_service.generation.progress import Progress
from gen_service.generation.sample_plan import SamplePlan
from gen_service.generation.steering import Decision, Steering
from gen_service.records import Prompt, Sample, Skipped, SkipReason, Trace
from gen_service.settings import OrderSettings, SteeringSettings

PROMPTS_READ_AHEAD = 64
# Prompts read for each sample that is asked for, until the window is full.
READ_PER_SAMPLE = 2
# Samples that are read and not sent, about 200 bytes each: past this no prompt is read. Prompts of many samples would
# else fill the memory before they fill the order's window.
MOST_UNSENT = 2**17
# Samples looked up, skipped or cut in one turn of the event loop: 20 us each.
AT_A_TURN = 256


class Remembers(Protocol):
    """What the supply needs of the job's folder."""

    def is_done(self, sample_id: str) -> bool:
        """Whether the sample is in the journal, published, or skipped for good."""
        ...

    def is_correct(self, sample_id: str) -> bool:
        """Whether the sample has a row with a right answer."""
        ...

    def is_ungradable(self, sample_id: str) -> bool:
        """Whether the sample has a row whose gold could not be compared with."""
        ...

    def is_skipped(self, sample_id: str) -> bool:
        """Whether the sample is accounted for as not made."""
        ...

    def skip(self, skipped: Skipped) -> None:
        """Account for a sample that is not made."""
        ...

    async def keep_up(self) -> None:
        """Wait while the disk is behind."""
        ...

    def reject(self, bad: BadPromptRow) -> bool:
        """Dead-letter a row; False when an earlier run already did."""
        ...


class Supply:
    """One job's samples, each given out once or skipped once.

    Invariants: prompts with samples not given out never exceed the order's window (plus those of which steering holds
    samples back while others of the same prompt are in flight, which the pool bounds), nor their samples MOST_UNSENT
    and one prompt's; within that, a prompt's second sample goes only when no other prompt's first can be had, by
    reading on if need be.

    Attributes:
        cut: ends a sample in flight with what came of it; set when there is a fleet.
    """

    def __init__(
        self, plan: SamplePlan, order: OrderSettings, steering: SteeringSettings, folder: Remembers, progress: Progress
    ) -> None:
        self.cut: Callable[[str], object] = _nothing
        self._plan = plan
        self._order = Order(order)
        self._reads_ahead = order.policy != "as_read"
        self._steers = steering.is_on
        self._steering = Steering(steering, plan.samples)
        self._folder = folder
        self._progress = progress
        # Of each open prompt: samples that steering holds back, and how many are out (in the order, or in flight).
        self._held: dict[str, deque[Sample]] = {}
        self._out: dict[str, int] = {}
        self._held_samples = 0
        # Decided, and not yet told to the folder and to the fleet.
        self._to_skip: deque[Skipped] = deque()
        self._to_cut: deque[str] = deque()
        self._unprobed: set[str] = set()
        self._exhausted = False
        self._changed = asyncio.Event()

    async def samples(self, prompts: Iterator[Prompt | BadPromptRow], stop: Stop) -> AsyncGenerator[Sample, None]:
        """The samples that are not done, each when it is the one to ask for; ends when none is left or will be."""
        progress = self._progress
        self._steering.begin(progress.correct, progress.rows, progress.tokens)
        async with aclosing(in_chunks(prompts, PROMPTS_READ_AHEAD)) as source:
            while not stop.asked:
                await self._read_on(source, stop)
                sample = self._next()
                if sample is not None:
                    yield sample
                    await self._settle()
                elif self._exhausted and not self._held and not len(self._order):
                    progress.exhaust()
                    return
                else:
                    await self._wait(stop)

    async def _wait(self, stop: Stop) -> None:
        """Until a sample that is out has ended; not at all after a stop, which ends what waits here only once."""
        if not stop.asked:
            self._changed.clear()
            await self._changed.wait()

    def is_needed(self, sample: Sample) -> bool:
        """Whether a sample given out is still to be asked for: between the two another's verdict may have come, which
        found nothing to cut. One that is not needed is `withdrawn`."""
        return not self._steers or self._steering.is_needed(sample)

    def running(self, sample: Sample, tokens: int) -> None:
        """A sample given out has so many tokens by now."""
        self._order.at_least(sample.prompt, tokens)

    def came(self, sample: Sample, tokens: int | None) -> None:
        """A sample given out has its whole answer, of so many tokens; None when it failed, was cut or given up."""
        self._order.observe(sample.prompt, tokens)

    def withdrawn(self, sample: Sample) -> None:
        """A sample was cut before its first token, or before it was asked for: it has no row."""
        skipped = self._steering.withdrawn(sample)
        if skipped is not None:
            self._skip(skipped)
        self._landed(sample.prompt.prompt_id)

    async def ended(self, trace: Trace) -> None:
        """A sample given out has its verdict; when this returns, what follows from it is accounted for."""
        if not self._steers:
            return
        tokens = 0 if trace.completion is None else trace.completion.completion_tokens
        outcome = "unverified" if trace.verdict is None else trace.verdict.outcome
        self._apply(self._steering.ended(trace.sample, outcome, tokens))
        self._landed(trace.sample.prompt.prompt_id)
        await self._settle()

    @property
    def _is_full(self) -> bool:
        return self._order.is_full or len(self._order) + self._held_samples >= MOST_UNSENT

    async def _read_on(self, source: AsyncGenerator[Prompt | BadPromptRow, None], stop: Stop) -> None:
        """Read on to a prompt's first sample; of the rest of the window a little at each call."""
        wanted = READ_PER_SAMPLE if self._reads_ahead else int(not len(self._order))
        while not (self._exhausted or self._is_full or stop.asked):
            # When the job has enough, the rest is read only to be accounted for.
            if wanted <= 0 and self._unprobed and self._steering.over is None:
                return
            try:
                row = await anext(source)
            except StopAsyncIteration:
                self._exhausted = True
                return
            wanted -= 1
            if isinstance(row, BadPromptRow):
                self._progress.reject(row, is_new=self._folder.reject(row))
            elif not await self._open(row):
                # A chunk of prompts whose samples are all done would else hold up the event loop as a whole.
                await asyncio.sleep(0)
                await self._folder.keep_up()

    async def _open(self, prompt: Prompt) -> bool:
        """Take a prompt in; whether any of its samples is to be made."""
        left, done = await self._told_apart(prompt)
        if not left:
            return False
        prompt_id = prompt.prompt_id
        if not self._steers:
            self._order.add(prompt, left)
        else:
            reason = self._open_steered(prompt_id, left, done)
            if reason is not None:
                self._to_skip.extend(Skipped(one.sample_id, prompt_id, one.index, reason) for one in left)
                await self._settle()
                return False
            self._held[prompt_id] = deque(left)
            self._held_samples += len(left)
            self._out[prompt_id] = 0
            self._release(prompt_id)
        self._unprobed.add(prompt_id)
        return True

    async def _told_apart(self, prompt: Prompt) -> tuple[list[Sample], list[str]]:
        """A prompt's samples that are to be made, and the ids of the others."""
        left: list[Sample] = []
        done: list[str] = []
        for number, sample in enumerate(self._plan.samples_of(prompt), 1):
            if self._folder.is_done(sample.sample_id):
                done.append(sample.sample_id)
            else:
                left.append(sample)
            if not number % AT_A_TURN:
                await asyncio.sleep(0)
        return left, done

    def _open_steered(self, prompt_id: str, left: list[Sample], done: list[str]) -> SkipReason | None:
        folder = self._folder
        made = [sample_id for sample_id in done if not folder.is_skipped(sample_id)]
        return self._steering.open(
            prompt_id,
            left,
            done=len(made),
            correct=sum(map(folder.is_correct, made)),
            ungradable=any(map(folder.is_ungradable, made)),
        )

    def _next(self) -> Sample | None:
        if not self._steering.may_send:
            return None
        sample = self._order.pop()
        if sample is not None:
            self._unprobed.discard(sample.prompt.prompt_id)
            if self._steers:
                self._apply(self._steering.sent(sample))
        return sample

    def _release(self, prompt_id: str) -> None:
        """Put into the order what steering lets go of one prompt, and all of it where it belongs by now."""
        held = self._held.get(prompt_id)
        if held:
            room = self._steering.at_once(prompt_id) - self._out[prompt_id]
            free = [held.popleft() for _ in range(min(room, len(held)))]
            self._out[prompt_id] += len(free)
            self._held_samples -= len(free)
            if free:
                self._order.add(free[0].prompt, free)
            if not held:
                del self._held[prompt_id]
        self._order.set_rank(prompt_id, self._steering.rank(prompt_id))

    def _landed(self, prompt_id: str) -> None:
        """One sample of a prompt is out no more."""
        self._out[prompt_id] -= 1
        self._release(prompt_id)
        if not self._out[prompt_id] and prompt_id not in self._held:
            del self._out[prompt_id]
        self._changed.set()

    def _apply(self, decision: Decision) -> None:
        """Give nothing out any more that is not needed. The folder and the fleet are told by `_settle`."""
        self._to_cut.extend(decision.cut)
        self._to_skip.extend(decision.skip)
        for prompt_id in {skipped.prompt_id for skipped in decision.skip}:
            self._held_samples -= len(self._held.pop(prompt_id, ()))
            self._unprobed.discard(prompt_id)
            if dropped := len(self._order.drop(prompt_id)):
                self._out[prompt_id] -= dropped
                if not self._out[prompt_id]:
                    del self._out[prompt_id]
        if decision.end is not None:
            self._changed.set()

    async def _settle(self) -> None:
        """Cut and skip what was decided upon, a little in each turn of the event loop: the job's last right answer may
        decide about 100,000 samples. A run that ends before leaves the rest to the next one, which decides the same."""
        while self._to_cut or self._to_skip:
            for _ in range(min(AT_A_TURN, len(self._to_cut))):
                self.cut(self._to_cut.popleft())
            for _ in range(min(AT_A_TURN, len(self._to_skip))):
                self._skip(self._to_skip.popleft())
            if self._to_cut or self._to_skip:
                await asyncio.sleep(0)
                await self._folder.keep_up()

    def _skip(self, skipped: Skipped) -> None:
        self._folder.skip(skipped)
        self._progress.skip(skipped.reason)


def _nothing(_: str) -> None:
    return
