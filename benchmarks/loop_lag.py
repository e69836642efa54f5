"""How late an event loop wakes, by a beat of fixed length."""

from __future__ import annotations

import asyncio
import time
from array import array
from dataclasses import asdict, dataclass

BEAT_S = 0.01


@dataclass(frozen=True, slots=True)
class LagFigures:
    """Seconds by which beats were late: median, 99th percentile, largest. All are 0 where there were no beats."""

    p50_s: float
    p99_s: float
    max_s: float
    beats: int

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


class LagProbe:
    """Notes by how much each beat of `BEAT_S` seconds was late.

    A loop that was held up for 200 ms missed twenty beats: each of them is counted with its own lateness, so that one
    long pause weighs as much as it lasted (else it would be one late beat among many, "coordinated omission").
    The clock is `time.perf_counter`: uvloop's own stands still within one turn of the loop and counts milliseconds.
    """

    def __init__(self, beat_s: float = BEAT_S) -> None:
        self._beat_s = beat_s
        self._due = array("d")
        self._late = array("d")

    async def run(self) -> None:
        """Until cancelled."""
        due = time.perf_counter() + self._beat_s
        while True:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            due = self.woke(due, time.perf_counter())

    def woke(self, due: float, now: float) -> float:
        """Note all beats from `due` up to `now`; returns when the next one is due, in seconds of one clock."""
        while due <= now:
            self._due.append(due)
            self._late.append(now - due)
            due += self._beat_s
        return due

    def figures(self, since: float = float("-inf"), until: float = float("inf")) -> LagFigures:
        """Of the beats due between two moments of `time.perf_counter`."""
        late = sorted(late for due, late in zip(self._due, self._late, strict=True) if since <= due <= until)
        if not late:
            return LagFigures(0.0, 0.0, 0.0, 0)
        last = len(late) - 1
        return LagFigures(late[last // 2], late[min(last, int(0.99 * len(late)))], late[last], len(late))
