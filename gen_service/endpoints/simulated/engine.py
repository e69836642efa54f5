"""vLLM V1's scheduler as a model: pure, exact at any time, and cheap."""

from __future__ import annotations

import heapq
import math
from collections import deque

from gen_service.endpoints.simulated.engine_profile import EngineProfile
from gen_service.endpoints.simulated.engine_sequence import DECODE, ENDED, PREFILL, WAITING, BusyClock, EngineSequence
from gen_service.endpoints.simulated.kv_blocks import KvBlocks
from gen_service.errors import SpecError

__all__ = ["Engine", "EngineProfile", "EngineSequence"]


class Engine:
    """Continuous batching over a paged KV cache, step by step but computed many steps at once.

    The whole rule, as vLLM 0.32 has it (v1/core/sched/scheduler.py, v1/core/kv_cache_manager.py):

    - Every running sequence makes one token a step. Before a step each takes the block it needs; when there is none,
      the last admitted sequence is preempted: its blocks are freed, it goes to the front of the waiting queue, and
      all it had is computed again when it is admitted again.
    - Then, unless something was preempted in this step, waiting sequences are admitted in order while there are fewer
      than `max_num_seqs` and all their tokens fit, with the watermark left free unless nothing runs.
    - An admitted sequence computes its prompt (and the completion tokens it has), less what siblings left in the
      cache, in chunks of at most `max_batched_tokens` a step; the step of its last chunk makes its first token.
    - Who arrives or leaves during a step is seen by the next one.

    Between two changes of who runs, the live tokens grow by a constant, so the time of k steps is a quadratic in k:
    nothing is computed per token. Advancing in small or large steps gives the same times, bit for bit.

    Invariants: blocks in use never exceed the cache; running sequences never exceed `max_num_seqs`; a token once made
    stays made.

    Attributes:
        preemptions: sequences put back.
        recomputed_tokens: tokens computed again because of that.
        prompt_tokens: prompt tokens of all sequences at their first admission, found in the cache or not.
        prefix_queries, prefix_hits: prompt tokens looked for in the cache, and found.
        completed: sequences that came to their end.
    """

    def __init__(self, profile: EngineProfile) -> None:
        self.profile = profile
        self.preemptions = self.recomputed_tokens = 0
        self.prompt_tokens = self.prefix_queries = self.prefix_hits = 0
        self.completed = 0
        self._blocks = KvBlocks(profile.kv_blocks, profile.block_size)
        self._clock = BusyClock()
        self._now = -math.inf
        self._paused, self._speed = False, 1.0
        self._waiting: deque[EngineSequence] = deque()
        self._running: dict[EngineSequence, None] = {}
        self._prefills: deque[EngineSequence] = deque()
        self._leaving: list[tuple[EngineSequence, bool]] = []
        self._done: list[EngineSequence] = []
        self._reached: list[EngineSequence] = []
        # (step, admission, sequence): entries of an earlier admission than the sequence's last are void.
        self._finishes: list[tuple[int, int, EngineSequence]] = []
        self._watches: list[tuple[int, int, EngineSequence]] = []
        self._decode_s: dict[int, float] = {}
        self._admissions = 0
        self._generated = 0
        # The present run of steps: it began at `_start_s` of work with step number `_first`; `_made` of its `_planned`
        # steps are complete; the first takes `_step_s`, each later one `_more_s` more than the one before it.
        self._first = self._planned = self._made = self._chunk = 0
        self._live = 0
        self._start_s = self._end_s = self._step_s = self._more_s = 0.0
        # The last step known to be complete, and when that was.
        self._last_step = (0, 0.0)

    @property
    def running(self) -> int:
        """Sequences being computed."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Sequences that wait to be admitted, again or for the first time."""
        return len(self._waiting)

    @property
    def steps(self) -> int:
        """Steps completed."""
        return self._first + self._made

    @property
    def generation_tokens(self) -> int:
        """Completion tokens made here."""
        return self._generated + self._blocks.growing * self._made

    @property
    def blocks_used(self) -> int:
        """KV blocks that running sequences hold."""
        return self._blocks.used + self._blocks.grown(self._first, self._made)

    def kv_usage(self) -> float:
        """Share of the KV blocks in use."""
        return self.blocks_used / self._blocks.total

    def submit(self, sequence: EngineSequence, now: float) -> None:
        """A request arrives at time `now`.

        Raises:
            SpecError: it could never fit in the KV cache.
        """
        most = self._blocks.of(sequence.prompt_tokens + sequence.target_tokens - 1)
        if most > self._blocks.total:
            raise SpecError("sequence.target_tokens", sequence.target_tokens, f"a KV cache of at least {most} blocks")
        self._run_to(now)
        self._waiting.append(sequence)
        if not self._planned:
            self._start_s = self._clock.busy_s(now)
            self._begin()
        elif len(self._waiting) == 1:
            self._look_soon()

    def cancel(self, sequence: EngineSequence, now: float) -> bool:
        """A request's client has left. What it made stays in its `made`; False if it had ended before."""
        self._run_to(now)
        if sequence.state == ENDED:
            return False
        if sequence.state == WAITING:
            was_first = self._waiting[0] is sequence
            self._waiting.remove(sequence)
            sequence.rests(ENDED)
            if was_first:
                self._look_soon()
            return True
        self._leaving.append((sequence, sequence.state == DECODE))
        sequence.rests(ENDED)
        sequence.admitted = 0
        self._cut()
        return True

    def watch(self, sequence: EngineSequence, made: int) -> None:
        """Have `next_event` name the time when the sequence has made so many tokens, and `take_reached` return it."""
        sequence.watch = made
        if sequence.state == DECODE:
            self._watch(sequence)

    def advance(self, now: float) -> list[EngineSequence]:
        """Let time pass, up to `now`. Returns the sequences that ended since the last call."""
        self._run_to(now)
        done, self._done = self._done, []
        return done

    def take_reached(self) -> list[EngineSequence]:
        """The sequences that came to what `watch` asked for since the last call; some may have ended since."""
        reached, self._reached = self._reached, []
        return reached

    def next_event(self) -> float | None:
        """When to call `advance` next: nothing that the caller can see happens before. None while nothing runs."""
        if self._done or self._reached:
            return self._now
        if not self._planned or self._clock.rate == 0.0:
            return None
        while self._watches and not _is_watched(*self._watches[0]):
            heapq.heappop(self._watches)
        if self._watches and self._watches[0][0] < self._first + self._planned:
            return self._time_of(self._watches[0][0] - self._first)
        return self._clock.at(self._end_s)

    def last_token_at(self, sequence: EngineSequence) -> float | None:
        """When the sequence made its last token; None before its first one here."""
        if sequence.state != DECODE:
            return sequence.last_token_at
        step, at = self._last_step
        return at if step == self.steps else self._time_of(self._made)

    def set_speed(self, speed: float, now: float) -> None:
        """Work `speed` times as fast as the profile says, from `now` on."""
        if not 0.0 < speed < math.inf:
            raise SpecError("speed", speed, "a positive factor; 1 is the profile's own speed")
        self._speed = speed
        self._set_rate(now)

    def set_paused(self, paused: bool, now: float) -> None:
        """Stall, or go on: a stalled engine takes requests and makes no tokens."""
        self._paused = paused
        self._set_rate(now)

    def _set_rate(self, now: float) -> None:
        self._run_to(now)
        if self._made and self._last_step[0] != self.steps:
            self._last_step = self.steps, self._time_of(self._made)
        self._clock.set_rate(0.0 if self._paused else self._speed, now)

    def _time_of(self, steps: int) -> float:
        """When so many steps of the present run are complete."""
        return self._clock.at(self._start_s + self._duration_s(steps))

    def _duration_s(self, steps: int) -> float:
        return steps * self._step_s + self._more_s * (steps * (steps - 1) // 2)

    def _run_to(self, now: float) -> None:
        if now < self._now:
            raise ValueError(f"time goes back: {now} after {self._now}")
        self._now = now
        while self._planned and self._clock.at(self._end_s) <= now:
            self._made = self._planned
            self._note_reached()
            self._turn()
        if self._planned > 1 and self._clock.rate:
            self._made = self._steps_by(now)
            self._note_reached()

    def _steps_by(self, now: float) -> int:
        """Steps of the present run that are complete at `now`: the root of a quadratic, then exact."""
        work_s, half = self._clock.busy_s(now) - self._start_s, self._more_s / 2
        linear = self._step_s - half
        root = (math.sqrt(linear * linear + 4 * half * max(0.0, work_s)) + linear) / 2
        steps = max(self._made, min(self._planned - 1, int(max(0.0, work_s) / root)))
        while steps + 1 < self._planned and self._time_of(steps + 1) <= now:
            steps += 1
        while steps > self._made and self._time_of(steps) > now:
            steps -= 1
        return steps

    def _look_soon(self) -> None:
        """End the present run with the step under way, if the first who waits might be admitted then."""
        if self._planned and self._waiting and self._has_room_for(self._waiting[0]):
            self._cut()

    def _cut(self) -> None:
        if self._planned > self._made + 1:
            self._planned = self._made + 1
            self._end_s = self._start_s + self._duration_s(self._planned)

    def _turn(self) -> None:
        """A run of steps is complete: who has ended leaves, and the next run begins."""
        steps = self._planned
        self._blocks.enter(self._first, steps - 1)
        self._generated += self._blocks.growing * steps
        self._live += self._blocks.growing * steps
        self._first += steps
        self._made = self._planned = 0
        self._start_s = self._end_s
        self._last_step = self._first, self._clock.at(self._start_s)
        self._compute_chunk()
        for sequence, decoded in self._leaving:
            self._leave_behind(sequence, decoded)
        self._leaving.clear()
        while self._finishes and self._finishes[0][0] <= self._first:
            _, admission, sequence = heapq.heappop(self._finishes)
            if sequence.admitted == admission:
                self._end(sequence)
        self._begin()

    def _begin(self) -> None:
        """Take blocks for the next step, preempting; else admit; then plan as many steps as nothing changes in."""
        is_short = self._blocks.taken_at(self._first) > self._blocks.free
        while self._blocks.taken_at(self._first) > self._blocks.free:
            self._preempt(next(reversed(self._running)))
        self._blocks.enter(self._first - 1, 1)
        if not is_short:
            self._admit()
        if self._running:
            self._plan()

    def _plan(self) -> None:
        profile, steps, batch = self.profile, 1, len(self._running)
        if batch not in self._decode_s:
            self._decode_s[batch] = profile.decode_s(batch)
        self._step_s = self._decode_s[batch] + profile.kv_token_s * self._live
        self._more_s = profile.kv_token_s * self._blocks.growing
        self._chunk = 0
        if self._prefills:
            room = max(1, profile.max_batched_tokens - self._blocks.growing)
            self._chunk = min(room, sum([sequence.to_compute for sequence in self._prefills]))
            self._step_s += profile.prefill_token_s * self._chunk
        else:
            self._drop_void_finishes()
            steps = self._blocks.steps_that_fit(self._first, self._finishes[0][0] - self._first)
        self._planned = steps
        self._end_s = self._start_s + self._duration_s(steps)

    def _compute_chunk(self) -> None:
        """The chunk of the step that is complete: prefills that came to their end decode from now on."""
        chunk = self._chunk
        while self._prefills and chunk >= self._prefills[0].to_compute:
            sequence = self._prefills.popleft()
            chunk -= sequence.to_compute
            sequence.to_compute = 0
            if sequence.state == PREFILL:
                self._decode(sequence)
        if self._prefills:
            self._prefills[0].to_compute -= chunk
        self._chunk = 0

    def _decode(self, sequence: EngineSequence) -> None:
        sequence.runs(self)
        self._generated += 1
        self._live += 1
        sequence.slot = self._blocks.grow(sequence.tokens, self._first)
        heapq.heappush(self._finishes, (sequence.step_of(sequence.target_tokens), sequence.admitted, sequence))
        if sequence.watch is not None:
            self._watch(sequence)

    def _admit(self) -> None:
        while self._waiting and self._has_room_for(self._waiting[0]):
            sequence = self._waiting.popleft()
            hits = self._blocks.hold(sequence.prefix_key, sequence.prompt_tokens, sequence.tokens)
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
            self._live += sequence.tokens
            self._running[sequence] = None
            self._prefills.append(sequence)

    def _has_room_for(self, sequence: EngineSequence) -> bool:
        """Whether it can be admitted before the next step."""
        if len(self._running) >= self.profile.max_num_seqs:
            return False
        spare = self.profile.watermark_blocks if self._running else 0
        ahead = self._blocks.grown(self._first, self._made + 1) if self._planned else 0
        needed = self._blocks.needed(sequence.prefix_key, sequence.prompt_tokens, sequence.tokens)
        return needed + spare + ahead <= self._blocks.free

    def _end(self, sequence: EngineSequence) -> None:
        self._take_out(sequence, sequence.tokens, sequence.tokens - 1)
        sequence.rests(ENDED)
        self.completed += 1
        self._done.append(sequence)

    def _preempt(self, sequence: EngineSequence) -> None:
        if sequence.state == DECODE:
            self._take_out(sequence, sequence.tokens, sequence.tokens - 1)
            sequence.last_token_at = self._last_step[1]
        else:
            self._take_out(sequence, sequence.tokens, sequence.tokens)
        sequence.rests(WAITING)
        sequence.preemptions += 1
        self.preemptions += 1
        self._waiting.appendleft(sequence)

    def _leave_behind(self, sequence: EngineSequence, decoded: bool) -> None:
        """Its client left during the step that is complete; the token of that step is nobody's."""
        if decoded:
            self._generated -= 1
            self._take_out(sequence, sequence.tokens + 1, sequence.tokens)
        else:
            self._take_out(sequence, sequence.tokens, sequence.tokens)

    def _take_out(self, sequence: EngineSequence, live: int, cached: int) -> None:
        """End its admission: it has `live` tokens, of which `cached` have blocks."""
        del self._running[sequence]
        self._live -= live
        self._blocks.release(sequence.prefix_key, sequence.prompt_tokens, cached)
        if sequence.slot is not None:
            self._blocks.stop_growing(sequence.slot)
            sequence.slot = None
        if sequence.to_compute:
            self._prefills.remove(sequence)
            sequence.to_compute = 0
        sequence.admitted = 0

    def _watch(self, sequence: EngineSequence) -> None:
        assert sequence.watch is not None
        heapq.heappush(self._watches, (sequence.step_of(sequence.watch), sequence.admitted, sequence))
        self._note_reached()

    def _note_reached(self) -> None:
        while self._watches and self._watches[0][0] <= self.steps:
            step, admission, sequence = heapq.heappop(self._watches)
            if _is_watched(step, admission, sequence):
                sequence.watch = None
                self._reached.append(sequence)

    def _drop_void_finishes(self) -> None:
        while self._finishes[0][2].admitted != self._finishes[0][1]:
            heapq.heappop(self._finishes)


def _is_watched(step: int, admission: int, sequence: EngineSequence) -> bool:
    return sequence.admitted == admission and sequence.watch is not None and sequence.step_of(sequence.watch) == step
