"""How many requests one server is given: a pure state machine that owns no clock and asks nobody."""

from __future__ import annotations

from typing import Literal

from gen_service.endpoints.readings import Readings

Mode = Literal["auto", "fixed"]

# How many times the sequences that fit are sent: what waits inside the server fills the room that a finished sequence
# leaves at once. In the simulation of four replicas 1.5 to 2 gave the same rate, and 1.5 computed least again.
OVERSUBSCRIBE = 1.5
# Live tokens of a sequence while nobody said what is asked for.
EXPECTED_LIVE = 6144.0
# The measured rule: "x0.85 on 429/503/connect errors or more than 0.5 preemptions per completion, with a cool-down".
CUT = 0.85
CUT_COOLDOWN_S = 5.0
MOST_PREEMPTED = 0.5
# Completions over which preemptions are counted: half a round, since they come in bursts, and at least these.
WINDOW_ROUND = 0.5
WINDOW_FEWEST = 8
# A server whose KV cache is used less than this, and in which nothing waits, takes more.
LOW_USAGE = 0.85
# Share of what fits by which the limit grows at a look: a cut is made good in a good minute.
GROWTH_PER_LOOK = 0.01
# Share of the cap by which the limit grows while a whole round of requests succeeds, where no metrics are: a cut is
# made good in three rounds, and a round of long traces takes a quarter of an hour.
GROWTH_PER_ROUND = 0.05
# Share of the requests allowed that must be in flight for the limit to be what presses the server.
BINDS = 0.85
# A cache that is used this much is full enough to tell how long sequences are.
FULL_USAGE = 0.8
# That is learned over so many rounds of completions, since young sequences look short, and in the beginning all are
# young. And not beyond this factor.
LEARNED_ROUNDS = 3.0
LEARNED_MOST = 4.0
# Readings this much older than the next are stale: what happened between them says nothing of the limit. Looks are
# 5 s apart.
STALE_S = 15.0
# Metrics that were not read for this long are absent, no more stale: without this a cut would never be made good.
ABSENT_S = 60.0


class Limit:
    """The most requests that one server may have in flight, between 1 and the cap.

    The whole rule:

    - What fits: with `auto`, 1.5 times the sequences that the KV cache holds at the live tokens expected of each, or
      the cap where that is less; with `fixed`, or while the server did not say what its cache holds, the cap.
    - It begins at what fits, and begins again when the jobs or the cache are others, unless it is cut: then it only
      never stays above what fits.
    - 429, 503 and refused connections cut it by 0.85, at most every 5 s.
    - So do more than 0.5 preemptions per completion, counted over half a round of requests, from the moment
      when a cut has taken effect (no more in flight than allowed), and only while the limit is what binds.
    - It grows by a hundredth of what fits at each look that finds nothing waiting inside the server, its KV cache
      used less than 0.85, and all that is allowed in flight.
    - Without metrics, or a minute after the last ones, a round of successes adds a twentieth of the cap.
    - A reading after a gap of more than three looks, or of a server that began to count anew, only starts the counts:
      with stale metrics the limit holds.
    - Expected live tokens are what the jobs' sampling says, times a factor that follows slowly what the cache holds
      for each sequence that runs there, while all that is allowed is in flight or the cache is full.

    Args:
        cap: most requests in flight.
        mode: whether it finds itself.
    """

    def __init__(self, cap: int, mode: Mode) -> None:
        self.cap = cap
        self.mode = mode
        self.value = float(cap)
        self._expected = EXPECTED_LIVE
        self._factor = 1.0
        self._kv_tokens: int | None = None
        self._fits = float(cap)
        self._last: tuple[float, Readings] | None = None
        self._window = Readings()
        self._cut_at = float("-inf")
        self._is_cut = False

    def expect_live(self, tokens: float) -> None:
        """What one sequence is expected to hold in the KV cache, on average over its life, in tokens."""
        if self._expected != max(1.0, tokens):
            self._expected = max(1.0, tokens)
            self._begin()

    def succeeded(self, now: float) -> None:
        """A whole answer came at loop time `now`."""
        if self._kv_tokens is None or self._last is None or now - self._last[0] > ABSENT_S:
            self._grow(max(1.0, GROWTH_PER_ROUND * self.cap) / self.value)

    def overloaded(self, now: float) -> None:
        """The server refused a request, or its connection, at loop time `now`."""
        self._cut(now)

    def read(self, readings: Readings, in_flight: int, now: float) -> None:
        """Fresh readings at loop time `now`, with `in_flight` requests of ours at the server."""
        if self.mode == "fixed":
            return
        last, self._last = self._last, (now, readings)
        if readings.kv_tokens and readings.kv_tokens != self._kv_tokens:
            self._kv_tokens = readings.kv_tokens
            self._begin()
            last = None
        if last is None or now - last[0] > STALE_S or _began_anew(last[1], readings):
            self._window = readings
            return
        self._learn(last[1], readings, in_flight)
        if in_flight > self.value:
            self._window = readings
        elif not self._is_preempted(readings, in_flight, now) and self._has_room(readings, in_flight):
            self._grow(GROWTH_PER_LOOK * self._fits)

    def _is_preempted(self, readings: Readings, in_flight: int, now: float) -> bool:
        """Whether sequences push each other out; then the limit is cut, where it is what binds."""
        preempted = _rise(self._window.preemptions, readings.preemptions)
        completed = _rise(self._window.completed, readings.completed)
        enough = max(WINDOW_FEWEST, WINDOW_ROUND * self.value)
        # Half the completions of a whole window need not be waited for.
        is_preempted = preempted > MOST_PREEMPTED * max(enough, completed)
        if is_preempted or completed >= enough:
            self._window = readings
        if is_preempted and in_flight >= BINDS * self.value:
            self._cut(now)
        return is_preempted

    def _has_room(self, readings: Readings, in_flight: int) -> bool:
        return in_flight >= int(self.value) and not readings.waiting and (readings.kv_usage or 0.0) < LOW_USAGE

    def _learn(self, before: Readings, readings: Readings, in_flight: int) -> None:
        """Follow what the cache holds for each sequence, when the server has all that it is given."""
        usage, running = readings.kv_usage, readings.running
        if self._kv_tokens is None or usage is None or not running:
            return
        if usage < FULL_USAGE and in_flight < int(self.value):
            return
        seen = min(LEARNED_MOST, max(1 / LEARNED_MOST, usage * self._kv_tokens / running / self._expected))
        weight = min(1.0, _rise(before.completed, readings.completed) / (LEARNED_ROUNDS * running))
        self._factor += weight * (seen - self._factor)
        self._fits = self._fitting()
        self.value = min(self.value, self._fits)

    def _fitting(self) -> float:
        if self.mode == "fixed" or self._kv_tokens is None:
            return float(self.cap)
        fitting = OVERSUBSCRIBE * self._kv_tokens / (self._expected * self._factor)
        return max(1.0, min(float(self.cap), fitting))

    def _begin(self) -> None:
        """What fits is another number now, and not because of what was learned."""
        self._fits = self._fitting()
        self.value = min(self.value, self._fits) if self._is_cut else self._fits

    def _grow(self, by: float) -> None:
        self.value = min(self._fits, self.value + by)
        self._is_cut &= self.value < self._fits

    def _cut(self, now: float) -> None:
        if now - self._cut_at >= CUT_COOLDOWN_S:
            self._cut_at = now
            self._is_cut = True
            self.value = max(1.0, self.value * CUT)


def _rise(before: float | None, after: float | None) -> float:
    """By how much a counter rose. One that is not there has counted nothing yet."""
    return (after or 0.0) - (before or 0.0)


def _began_anew(before: Readings, after: Readings) -> bool:
    """Whether the server was started again: its counters fell."""
    return _rise(before.preemptions, after.preemptions) < 0 or _rise(before.completed, after.completed) < 0
