"""How fast a job goes, told from its counters alone."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from gen_service.generation.progress import Progress

RATE_WINDOW_S = 30.0
# Looks closer together than this share a point, so that many who look cost no memory.
RATE_STEP_S = 0.2


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a job goes: rows and tokens a second over the last 30 s, and seconds left (None: not known) if samples
    are done, with a row or skipped, as fast as in those."""

    rows: float
    tokens: float
    left_s: float | None


class Rates:
    """A sliding window over a job's counters. The first look begins it."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int, int, int]] = deque()

    def at(self, now: float, progress: Progress) -> Rate:
        """The rates at time `now` (seconds on any steady clock)."""
        points = self._points
        if not points or now - points[-1][0] >= RATE_STEP_S:
            points.append((now, progress.published, progress.completion_tokens, progress.done))
        while now - points[0][0] > RATE_WINDOW_S:
            points.popleft()
        began, rows, tokens, done = points[0]
        seconds = max(now - began, 1e-9)
        left = None
        if progress.expected is not None and progress.done > done:
            left = max(0, progress.expected - progress.done) * seconds / (progress.done - done)
        return Rate((progress.published - rows) / seconds, (progress.completion_tokens - tokens) / seconds, left)
