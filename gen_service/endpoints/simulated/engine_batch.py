"""Who runs in a simulated engine, from one change to the next: vLLM V1's scheduler, without time."""

from __future__ import annotations

import heapq
from collections import deque
from typing import NamedTuple

from gen_service.endpoints.simulated.engine_profile import EngineProfile
from gen_service.endpoints.simulated.engine_sequence import DECODE, ENDED, PREFILL, WAITING, EngineSequence
from gen_service.endpoints.simulated.kv_blocks import KvBlocks


class Plan(NamedTuple):
    """The steps up to the next change of who runs.

    Attributes:
        steps: how many; each makes a token for every decoding sequence.
        chunk: prompt tokens that they compute; steps is 1 then.
    """

    steps: int
    chunk: int


class Batch:
    """The sequences that run and that wait, step by step.

    The whole rule, as vLLM 0.32 has it (v1/core/sched/scheduler.py, v1/core/kv_cache_manager.py):

    - Every running sequence makes one token a step. Before a step each takes the block it needs; when there is none,
      the last admitted sequence is preempted: its blocks are freed, it goes to the front of the waiting queue, and
      all it had is computed again when it is admitted again.
    - Then, unless something was preempted in this step, waiting sequences are admitted in order while there are fewer
      than `max_num_seqs` and all their tokens fit, with the watermark left free unless nothing runs.
    - An admitted sequence computes its prompt (and the completion tokens it has), less what siblings left in the
      cache, in chunks of at most `max_batched_tokens` a step; the step of its last chunk makes its first token.
    - Who arrives or leaves during a step is seen by the next one.

    Between two changes each decoding sequence makes a token a step: it knows the step of its end from the beginning,
    and nothing is done per token.

    Attributes:
        first: steps completed before the present plan.
        passed: steps of the present plan that are complete; its owner counts them.
        live: tokens of all running sequences at the plan's beginning.
        decoding: sequences that began to decode with this plan.
        preempted: sequences that were put back by this plan after they had decoded.
        done: sequences that ended with the plan before.
        preemptions, recomputed_tokens, completed, prompt_tokens, prefix_queries, prefix_hits: as `Engine` says.
    """

    def __init__(self, profile: EngineProfile) -> None:
        self.blocks = KvBlocks(profile.kv_blocks, profile.block_size)
        self.waiting: deque[EngineSequence] = deque()
        self.running: dict[EngineSequence, None] = {}
        self.first = self.passed = self.live = 0
        self.decoding: list[EngineSequence] = []
        self.preempted: list[EngineSequence] = []
        self.done: list[EngineSequence] = []
        self.preemptions = self.recomputed_tokens = self.completed = 0
        self.prompt_tokens = self.prefix_queries = self.prefix_hits = 0
        self._profile = profile
        self._plan = Plan(0, 0)
        self._generated = 0
        self._admissions = 0
        self._prefills: deque[EngineSequence] = deque()
        self._leaving: list[tuple[EngineSequence, bool]] = []
        # (step, admission, sequence): an entry of an earlier admission than the sequence's last is void.
        self._finishes: list[tuple[int, int, EngineSequence]] = []

    @property
    def steps(self) -> int:
        """Steps completed."""
        return self.first + self.passed

    @property
    def generated(self) -> int:
        """Completion tokens made."""
        return self._generated + self.blocks.growing * self.passed

    @property
    def blocks_used(self) -> int:
        """Blocks that running sequences hold."""
        return self.blocks.used + self.blocks.grown(self.first, self.passed)

    def add(self, sequence: EngineSequence) -> bool:
        """A request arrives; whether the next step may begin to run it."""
        self.waiting.append(sequence)
        return len(self.waiting) == 1 and self._will_have_room_for(sequence)

    def remove(self, sequence: EngineSequence) -> bool:
        """A request is given up; whether the next step has others than the plan says."""
        if sequence.state == WAITING:
            was_first = self.waiting[0] is sequence
            self.waiting.remove(sequence)
            sequence.rests(ENDED)
            return was_first and bool(self.waiting) and self._will_have_room_for(self.waiting[0])
        self._leaving.append((sequence, sequence.state == DECODE))
        sequence.rests(ENDED)
        sequence.admitted = 0
        return True

    def complete(self, steps: int) -> None:
        """So many steps of the plan, no fewer than `passed`, are complete, and there is another plan to make."""
        self.blocks.enter(self.first, steps - 1)
        self._generated += self.blocks.growing * steps
        self.live += self.blocks.growing * steps
        self.first += steps
        self.passed = 0
        self.decoding, self.preempted, self.done = [], [], []
        self._compute(self._plan.chunk)
        for sequence, decoded in self._leaving:
            self._leave_behind(sequence, decoded)
        self._leaving.clear()
        while self._finishes and self._finishes[0][0] <= self.first:
            _, admission, sequence = heapq.heappop(self._finishes)
            if sequence.admitted == admission:
                self._end(sequence)

    def plan(self) -> Plan:
        """Take blocks for the next step, preempting; else admit; then see how many steps nothing changes in."""
        is_short = self.blocks.taken_at(self.first) > self.blocks.free
        while self.blocks.taken_at(self.first) > self.blocks.free:
            self._preempt(next(reversed(self.running)))
        self.blocks.enter(self.first - 1, 1)
        if not is_short:
            self._admit()
        self._plan = self._planned()
        return self._plan

    def _planned(self) -> Plan:
        if not self.running:
            return Plan(0, 0)
        if self._prefills:
            room = max(1, self._profile.max_batched_tokens - self.blocks.growing)
            return Plan(1, min(room, sum([sequence.to_compute for sequence in self._prefills])))
        while self._finishes[0][2].admitted != self._finishes[0][1]:
            heapq.heappop(self._finishes)
        return Plan(self.blocks.steps_that_fit(self.first, self._finishes[0][0] - self.first), 0)

    def _compute(self, chunk: int) -> None:
        """A chunk of prefill is computed: those that came to the end of theirs decode from now on."""
        while self._prefills and chunk >= self._prefills[0].to_compute:
            sequence = self._prefills.popleft()
            chunk -= sequence.to_compute
            sequence.to_compute = 0
            if sequence.state == PREFILL:
                self._decode(sequence)
        if self._prefills:
            self._prefills[0].to_compute -= chunk

    def _decode(self, sequence: EngineSequence) -> None:
        sequence.runs(self)
        self._generated += 1
        self.live += 1
        sequence.slot = self.blocks.grow(sequence.tokens, self.first)
        heapq.heappush(self._finishes, (sequence.step_of(sequence.target_tokens), sequence.admitted, sequence))
        self.decoding.append(sequence)

    def _admit(self) -> None:
        while self.waiting and self._has_room_for(self.waiting[0], 0):
            sequence = self.waiting.popleft()
            hits = self.blocks.hold(sequence.prefix_key, sequence.prompt_tokens, sequence.tokens)
            sequence.to_compute = sequence.tokens - hits
            self.prefix_queries += sequence.tokens
            self.prefix_hits += hits
            if sequence.preemptions:
                self.recomputed_tokens += sequence.to_compute
            else:
                self.prompt_tokens += sequence.tokens
            self._admissions += 1
            sequence.admitted = self._admissions
            sequence.state = PREFILL
            self.live += sequence.tokens
            self.running[sequence] = None
            self._prefills.append(sequence)

    def _will_have_room_for(self, sequence: EngineSequence) -> bool:
        """Whether it can be admitted before the next step, if nobody leaves until then."""
        return self._has_room_for(sequence, self.blocks.grown(self.first, self.passed + 1))

    def _has_room_for(self, sequence: EngineSequence, taken: int) -> bool:
        """Whether it can be admitted when so many more blocks are taken."""
        if len(self.running) >= self._profile.max_num_seqs:
            return False
        spare = self._profile.watermark_blocks if self.running else 0
        needed = self.blocks.needed(sequence.prefix_key, sequence.prompt_tokens, sequence.tokens)
        return needed + spare + taken <= self.blocks.free

    def _end(self, sequence: EngineSequence) -> None:
        self._take_out(sequence, sequence.tokens, sequence.tokens - 1)
        sequence.rests(ENDED)
        self.completed += 1
        self.done.append(sequence)

    def _preempt(self, sequence: EngineSequence) -> None:
        if sequence.state == DECODE:
            self._take_out(sequence, sequence.tokens, sequence.tokens - 1)
            self.preempted.append(sequence)
        else:
            self._take_out(sequence, sequence.tokens, sequence.tokens)
        sequence.rests(WAITING)
        sequence.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(sequence)

    def _leave_behind(self, sequence: EngineSequence, decoded: bool) -> None:
        """Its client left during the step that is complete; the token of that step is nobody's."""
        if decoded:
            self._generated -= 1
            self._take_out(sequence, sequence.tokens + 1, sequence.tokens)
        else:
            self._take_out(sequence, sequence.tokens, sequence.tokens)

    def _take_out(self, sequence: EngineSequence, live: int, cached: int) -> None:
        """End its admission: it has `live` tokens, of which `cached` have blocks."""
        del self.running[sequence]
        self.live -= live
        self.blocks.release(sequence.prefix_key, sequence.prompt_tokens, cached)
        if sequence.slot is not None:
            self.blocks.stop_growing(sequence.slot)
            sequence.slot = None
        if sequence.to_compute:
            self._prefills.remove(sequence)
            sequence.to_compute = 0
        sequence.admitted = 0
