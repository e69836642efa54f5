"""Calls for each job whose time is over. Deadlines live in the jobs' rows; here are only this process's timers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# A timer is set anew this often: the clock of the loop may drift from that of the rows, and stands in a sleeping host.
LONGEST_TIMER_S = 3600.0


class Deadlines:
    """One timer for each job that has a deadline.

    Args:
        on_due: called once for each, with the job's id.
        now: seconds since the epoch.
    """

    def __init__(self, on_due: Callable[[str], None], now: Callable[[], float]) -> None:
        self._on_due = on_due
        self._now = now
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def set(self, job_id: str, at: float | None) -> None:
        """Call at `at`, seconds since the epoch; soon, where that is over. None: no deadline."""
        self.drop(job_id)
        if at is not None:
            left = min(max(0.0, at - self._now()), LONGEST_TIMER_S)
            self._timers[job_id] = asyncio.get_running_loop().call_later(left, self._look, job_id, at)

    def drop(self, job_id: str) -> None:
        """The job ended: its deadline means nothing any more."""
        timer = self._timers.pop(job_id, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Drop all."""
        for job_id in list(self._timers):
            self.drop(job_id)

    def _look(self, job_id: str, at: float) -> None:
        if at > self._now():
            self.set(job_id, at)
        else:
            del self._timers[job_id]
            self._on_due(job_id)
