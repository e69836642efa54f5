"""A simulated vLLM engine: pure, exact at any time, and cheap."""

from __future__ import annotations

import heapq
import math

from gen_service.endpoints.simulated.engine_batch import Batch
from gen_service.endpoints.simulated.engine_profile import EngineProfile
from gen_service.endpoints.simulated.engine_sequence import DECODE, ENDED, BusyClock, EngineSequence
from gen_service.errors import SpecError

__all__ = ["Engine", "EngineProfile", "EngineSequence"]


class Engine:
    """Continuous batching over a paged KV cache, step by step but computed many steps at once.

    `Batch` says who runs when; this adds the time. Between two changes of who runs the live tokens grow by a constant,
    so the time of k steps is a quadratic in k: nothing is computed per token. Advancing in small or large steps gives
    the same times, bit for bit. Times are the caller's, in seconds, and never go back.

    Invariants: blocks in use never exceed the cache; running sequences never exceed `max_num_seqs`; a token once made
    stays made.
    """

    def __init__(self, profile: EngineProfile) -> None:
        self.profile = profile
        self._batch = Batch(profile)
        self._clock = BusyClock()
        self._paused, self._speed = False, 1.0
        self._now = -math.inf
        self._done: list[EngineSequence] = []
        self._reached: list[EngineSequence] = []
        self._watches: list[tuple[int, int, EngineSequence]] = []
        self._decode_s: dict[int, float] = {}
        # The present run of steps, by the clock of work done: its first step takes `_step_s`, each later one `_more_s`
        # more than the one before it.
        self._planned = 0
        self._start_s = self._end_s = self._step_s = self._more_s = 0.0
        # The last step known to be complete, and when that was.
        self._last_step = (0, 0.0)

    @property
    def running(self) -> int:
        """Sequences being computed."""
        return len(self._batch.running)

    @property
    def waiting(self) -> int:
        """Sequences that wait to be admitted, for the first time or again."""
        return len(self._batch.waiting)

    @property
    def completed(self) -> int:
        """Sequences that came to their end."""
        return self._batch.completed

    @property
    def preemptions(self) -> int:
        """How often a running sequence was put back."""
        return self._batch.preemptions

    @property
    def recomputed_tokens(self) -> int:
        """Tokens computed again because of preemptions."""
        return self._batch.recomputed_tokens

    @property
    def prompt_tokens(self) -> int:
        """Tokens that sequences came with, each counted at its first admission, in the cache or not."""
        return self._batch.prompt_tokens

    @property
    def prefix_queries(self) -> int:
        """Tokens looked for in the prefix cache."""
        return self._batch.prefix_queries

    @property
    def prefix_hits(self) -> int:
        """Tokens found in the prefix cache, and not computed."""
        return self._batch.prefix_hits

    @property
    def generation_tokens(self) -> int:
        """Completion tokens made here."""
        return self._batch.generated

    @property
    def steps(self) -> int:
        """Steps completed."""
        return self._batch.steps

    @property
    def blocks_used(self) -> int:
        """KV blocks that running sequences hold."""
        return self._batch.blocks_used

    def kv_usage(self) -> float:
        """Share of the KV blocks in use, 0 to 1."""
        return self._batch.blocks_used / self.profile.kv_blocks

    def submit(self, sequence: EngineSequence, now: float) -> None:
        """A request arrives.

        Raises:
            SpecError: it could never fit in the KV cache.
        """
        most = self._batch.blocks.of(sequence.prompt_tokens + sequence.target_tokens - 1)
        if most > self.profile.kv_blocks:
            raise SpecError("sequence.target_tokens", sequence.target_tokens, f"a KV cache of at least {most} blocks")
        self._run_to(now)
        if self._batch.add(sequence):
            self._cut()
        if not self._planned:
            self._start_s = self._clock.busy_s(now)
            self._plan()

    def cancel(self, sequence: EngineSequence, now: float) -> bool:
        """A request's client has left. What it made stays in its `made`; False if it had ended before."""
        self._run_to(now)
        if sequence.state == ENDED:
            return False
        if self._batch.remove(sequence):
            self._cut()
        return True

    def watch(self, sequence: EngineSequence, made: int) -> None:
        """Have `next_event` name the time when the sequence has made so many tokens, and `take_reached` return it."""
        sequence.watch = made
        if sequence.state == DECODE:
            self._watch(sequence)

    def advance(self, now: float) -> list[EngineSequence]:
        """Let time pass, up to `now`. Returns the sequences that ended since the last call, in order."""
        self._run_to(now)
        done, self._done = self._done, []
        return done

    def take_reached(self) -> list[EngineSequence]:
        """The sequences that came to what `watch` asked for since the last call; some may have ended since."""
        reached, self._reached = self._reached, []
        return reached

    def next_event(self) -> float | None:
        """When to call `advance` next: nobody ends, nor reaches what is watched, before. None while nothing will."""
        if self._done or self._reached:
            return self._now
        if not self._planned or self._clock.rate == 0.0:
            return None
        while self._watches and not _is_watched(*self._watches[0]):
            heapq.heappop(self._watches)
        if self._watches and self._watches[0][0] < self._batch.first + self._planned:
            return self._time_of(self._watches[0][0] - self._batch.first)
        return self._clock.at(self._end_s)

    def last_token_at(self, sequence: EngineSequence) -> float | None:
        """When the sequence made its last token; None before its first one here."""
        if sequence.state != DECODE:
            return sequence.last_token_at
        step, at = self._last_step
        return at if step == self.steps else self._time_of(self._batch.passed)

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
        if self._last_step[0] != self.steps:
            self._last_step = self.steps, self._time_of(self._batch.passed)
        self._clock.set_rate(0.0 if self._paused else self._speed, now)

    def _run_to(self, now: float) -> None:
        if now < self._now:
            raise ValueError(f"time goes back: {now} after {self._now}")
        self._now = now
        while self._planned and self._clock.at(self._end_s) <= now:
            self._turn()
        if self._planned > 1 and self._clock.rate:
            self._batch.passed = self._steps_by(now)
            self._note_reached()

    def _turn(self) -> None:
        """The present run of steps is complete; the next one begins."""
        at = self._clock.at(self._end_s)
        self._batch.passed = self._planned
        self._note_reached()
        self._batch.complete(self._planned)
        self._start_s = self._end_s
        self._last_step = self.steps, at
        for sequence in self._batch.done:
            sequence.last_token_at = at
        self._done += self._batch.done
        for sequence in self._batch.decoding:
            if sequence.watch is not None:
                self._watch(sequence)
        self._plan()
        for sequence in self._batch.preempted:
            sequence.last_token_at = at

    def _plan(self) -> None:
        """Plan as many steps as nothing changes in, and their time."""
        profile, batch = self.profile, self._batch
        self._planned, chunk = batch.plan()
        running = len(batch.running)
        if running not in self._decode_s:
            self._decode_s[running] = profile.decode_s(running)
        self._step_s = self._decode_s[running] + profile.kv_token_s * batch.live + profile.prefill_token_s * chunk
        self._more_s = profile.kv_token_s * batch.blocks.growing
        self._end_s = self._start_s + self._duration_s(self._planned)

    def _cut(self) -> None:
        """Have the present run end with the step that is under way."""
        if self._planned > self._batch.passed + 1:
            self._planned = self._batch.passed + 1
            self._end_s = self._start_s + self._duration_s(self._planned)

    def _time_of(self, steps: int) -> float:
        """When so many steps of the present run are complete."""
        return self._clock.at(self._start_s + self._duration_s(steps))

    def _duration_s(self, steps: int) -> float:
        return steps * self._step_s + self._more_s * (steps * (steps - 1) // 2)

    def _steps_by(self, now: float) -> int:
        """Steps of the present run that are complete at `now`: the root of the quadratic, then exact."""
        work_s, half = max(0.0, self._clock.busy_s(now) - self._start_s), self._more_s / 2
        linear = self._step_s - half
        root_s = (math.sqrt(linear * linear + 4 * half * work_s) + linear) / 2
        passed = self._batch.passed
        steps = max(passed, min(self._planned - 1, int(work_s / root_s)))
        while steps + 1 < self._planned and self._time_of(steps + 1) <= now:
            steps += 1
        while steps > passed and self._time_of(steps) > now:
            steps -= 1
        return steps

    def _watch(self, sequence: EngineSequence) -> None:
        assert sequence.watch is not None
        heapq.heappush(self._watches, (sequence.step_of(sequence.watch), sequence.admitted, sequence))
        self._note_reached()

    def _note_reached(self) -> None:
        while self._watches and self._watches[0][0] <= self.steps:
            watch = heapq.heappop(self._watches)
            if _is_watched(*watch):
                watch[2].watch = None
                self._reached.append(watch[2])


def _is_watched(step: int, admission: int, sequence: EngineSequence) -> bool:
    return sequence.admitted == admission and sequence.watch is not None and sequence.step_of(sequence.watch) == step
